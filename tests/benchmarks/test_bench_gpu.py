"""The cases of the GPU page run without one, say so, and refuse to time what differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra deep: torch")

from benchmarks import inputs  # noqa: E402
from benchmarks.cases import gpu, images  # noqa: E402
from benchmarks.cases.train import write_rows  # noqa: E402
from benchmarks.harness import run_case  # noqa: E402
from tasks.deep import pictures  # noqa: E402
from tasks.deep.settings import EncoderConfig  # noqa: E402

ON_CPU = not torch.cuda.is_available()


@pytest.fixture
def own_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "INPUTS", tmp_path)


@pytest.mark.usefixtures("own_inputs")
def test_grey_is_checked_and_timed_in_parts() -> None:
    result = run_case("images", size=3, runs=1)
    assert result["size"]["pixels"] == 3 * images.WIDTH * images.HEIGHT
    assert result["checked"].startswith("pixels of pillow, torch")
    sides = {"ours": result["ours"], **result["peers"]}
    assert set(result["skipped"]) == (set(images.ON_GPU) if ON_CPU else set())
    assert all(numbers["pictures_per_s"] > 0 for numbers in sides.values())
    assert {"decode_s", "copy_s", "grey_s"} <= set(result["peers"]["torch"])


def test_a_pixel_that_differs_is_refused() -> None:
    job = images.Job([b""], 1)
    grey = np.full((1, images.HEIGHT // images.FACTOR, images.WIDTH // images.FACTOR), 90, dtype=np.uint8)
    spoilt = grey.copy()
    spoilt[0, 3, 5] += 1
    assert "are equal" in images.check(job, spoilt, {"pillow": grey, "kernel": grey})  # ours may be rounded otherwise
    with pytest.raises(AssertionError, match="1 pixels of kernel are not those of pillow"):
        images.check(job, grey, {"pillow": grey, "kernel": spoilt})
    with pytest.raises(AssertionError, match="levels from pillow"):
        images.check(job, grey + np.uint8(2), {"pillow": grey})


@pytest.mark.nightly
def test_all_four_trainings_run_where_there_is_no_gpu(
    tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "MODEL", EncoderConfig(vocabulary=64, positions=8, width=32, heads=4, layers=2, hidden=64))
    monkeypatch.setattr(gpu, "STEPS", 2)
    write_rows(400, tmp_path / "rows")
    files = tuple((tmp_path / "rows").glob("*.parquet"))
    job = gpu.Job(files, pictures.rows_made(40, 32, seed=0), workers=2, scratch=tmp_path)
    done = gpu.run("cpu", job)
    assert done.wall_s == pytest.approx(sum(done.notes[f"{part}_s"] for part in gpu.LIMITS))
    assert all(done.notes[f"{part}_per_s"] > 0 for part in gpu.LIMITS)
    assert "nothing to compare" in gpu.check(job, done.output, {})


def test_a_loss_that_differs_is_refused() -> None:
    job: Any = None
    losses = {"text": [1.0, 0.5], "text_bfloat16": [1.0, 0.5], "trees": [0.7], "network": [1.4, 0.9]}
    ours = gpu.Output(losses)
    assert "losses are those of the CPU" in gpu.check(job, ours, {"cpu": ours})
    for part, apart in (("text", 0.002), ("text_bfloat16", 0.06), ("trees", 0.01), ("network", 0.06)):
        other = replace(ours, losses={**losses, part: [value + apart for value in losses[part]]})
        with pytest.raises(AssertionError, match=f"a loss of {part} "):
            gpu.check(job, other, {"cpu": ours})
    with pytest.raises(AssertionError, match="a loss of cpu"):
        gpu.check(job, ours, {"cpu": replace(ours, losses={**losses, "text": [1.0, float("nan")]})})
    with pytest.raises(AssertionError, match="learned nothing"):
        gpu.check(job, replace(ours, losses={**losses, "network": [1.0, 1.1]}), {})
