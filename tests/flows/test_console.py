"""Tables are read in a terminal of 80 columns: no header, name or number is cut off, however large."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from flows.cli.ablate import print_worths
from flows.cli.console import print_summary
from flows.cli.snapshots import snapshot_table


def printed(width: int, *things: Any) -> str:
    console = Console(width=width, file=io.StringIO())
    for thing in things:
        thing(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(stage: str, **more: Any) -> dict[str, Any]:
    counts = {"rows_in": 250_000_000, "rows": 249_999_999, "rejected": 1_234_567, "repeated": 12_345_678}
    return {
        "stage": stage,
        **counts,
        "unit": "rows",
        "reused": False,
        "wall_s": 12_345.6,
        "digest": "0123456789",
    } | more


SUMMARY = {
    "run_id": "20260329-043003-a1b2c3",
    "stages": [row("near-duplicates"), row("count-words", rows=9_876_543, unit="words"), row("tokenize", reused=True)],
    "metrics": {"rmse": {"tuned": 0.5971, "mean": 1.2}, "mae": {"tuned": 0.4}},
    "wall_s": 45_678.9,
}
WHOLE = ["stage", "rows in", "out", "rejected", "repeated", "seconds", "near-duplicates", "250,000,000", "249,999,999"]
WHOLE += ["1,234,567", "12,345,678", "12,345.6", "9,876,543 words", "reused", "RMSE", "0.5971", "predict-the-mean"]


@pytest.mark.parametrize("width", [80, 120])
def test_the_summary_of_a_run_is_whole(width: int) -> None:
    text = printed(width, lambda console: print_summary(console, SUMMARY))
    assert max(map(len, text.splitlines())) <= width
    assert [part for part in WHOLE if part not in text] == []
    assert "…" not in text
    assert ("01234567" in text) == (width > 80)


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_of_snapshots_is_whole(width: int, tmp_path: Any) -> None:
    (tmp_path / "f").write_bytes(b"x" * 100)
    inputs = [
        SimpleNamespace(stage=s, digest="0123456789abcdef") for s in ("near-duplicates", "language-model", "clean")
    ]
    files = [SimpleNamespace(rows=250_000_000, table="")]
    about = SimpleNamespace(files=files, inputs=inputs, committed_at="2026-03-29T04:30:03+00:00")
    snapshot: Any = SimpleNamespace(manifest=about, folder=tmp_path, stage="near-duplicates", digest="f" * 64)
    text = printed(width, lambda console: console.print(snapshot_table([snapshot])))
    assert max(map(len, text.splitlines())) <= width
    whole = ["near-duplicates", "f" * 12, "250,000,000", "0.0", "2026-03-29 04:30", "committed", "snapshot"]
    assert [part for part in whole if part not in text] == []
    assert "…" not in text


def test_the_worths_of_feature_groups_are_whole() -> None:
    worth = {"group": "embeddings", "features": 128, "without": 0.59712, "difference": -0.00123}
    groups = [{**worth, "low": -0.0021, "high": -0.0001}]
    result = {
        "metric": "mlogloss",
        "target": "stars",
        "rows": 25_000_000,
        "features": 256,
        "loss": 0.5,
        "groups": groups,
    }
    text = printed(80, lambda console: print_worths(console, result))
    assert max(map(len, text.splitlines())) <= 80
    whole = ["without", "features", "difference", "95% interval", "-0.0021 to -0.0001", "harms", "0.5971"]
    assert [part for part in whole if part not in text] == []
