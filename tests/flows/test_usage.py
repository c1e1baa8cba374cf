"""What a run uses: counted in all its processes, shared by stages side by side, and listed over the nights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.run import usage
from flows.run.nights import nights
from flows.run.record import RunRecord
from flows.run.usage import Meter

WORK = """
import time
sum(i * i for i in range(2_000_000))
data = bytearray(200_000_000)
print(flush=True)
time.sleep(60)
"""


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(usage, "EVERY_S", 3600)  # samples are taken by the calls alone
    meter = Meter()
    yield meter
    meter.close()


def test_a_stage_counts_the_cpu_and_the_memory_of_processes_below_this_one(meter: Meter) -> None:
    before = meter.total()
    meter.begin("clean")
    child = subprocess.Popen([sys.executable, "-c", WORK], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        used = meter.end("clean")
    finally:
        child.kill()
        child.communicate()
    assert used.cpu_s > 0.02
    assert used.peak_mb >= before.peak_mb + 150
    assert meter.total().cpu_s >= used.cpu_s


def test_stages_side_by_side_share_what_is_used_and_the_run_counts_it_once(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter.begin("train")
    meter.begin("tune")
    sum(i * i for i in range(3_000_000))
    train, tune = meter.end("train"), meter.end("tune")
    assert train.cpu_s == pytest.approx(tune.cpu_s, abs=0.05)
    assert train.cpu_s + tune.cpu_s <= meter.total().cpu_s + 0.02


def test_a_stage_that_has_not_begun_has_used_nothing(meter: Meter) -> None:
    assert meter.end("split") == usage.Usage()


def test_nights_lists_the_latest_first_and_passes_over_what_cannot_be_read(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    for day, loss in ((1, 0.7), (2, None), (3, 0.6)):
        metrics = None if loss is None else {"rmse": {"tuned": loss}}
        record = RunRecord(run_id=f"2026010{day}-0", state="completed", wall_s=10.0 * day, cpu_s=5.0, metrics=metrics)
        (runs / f"{record.run_id}.json").write_text(json.dumps(record.to_json()))
    (runs / "20260102-half.json").write_text('{"run_id": "2026')
    (runs / "20260102-list.json").write_text("[]")
    this = RunRecord(run_id="20260103-0", state="running", wall_s=33.0, metrics={"rmse": {"tuned": 0.5}})
    rows = nights(tmp_path, this, "rmse")
    assert [(row["run_id"], row["seconds"], row["loss"]) for row in rows] == [
        ("20260103-0", 33.0, 0.5),
        ("20260102-0", 20.0, None),
        ("20260101-0", 10.0, 0.7),
    ]
