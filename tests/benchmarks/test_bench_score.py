"""The bench case `score` compares the predictions of both sides, and finds too few of either."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import polars as pl
import pytest

from benchmarks.cases.score import Job, check
from tasks.core.errors import RunError


@pytest.mark.parametrize(
    ("ours", "theirs", "wrong"), [(100, 100, 0), (100, 50, 0), (50, 100, 0), (100, 100, 1), (99, 100, 0)]
)
def test_both_sides_must_have_the_same_predictions(tmp_path: Path, ours: int, theirs: int, wrong: int) -> None:
    def write(rows: int, name: str, first: float) -> None:
        (tmp_path / name).parent.mkdir()
        ids, values = [f"R{i}" for i in range(rows)], [first, *[4.0] * (rows - 1)]
        pl.DataFrame({"review_id": ids, "prediction": values}).write_parquet(tmp_path / name)

    write(ours, "ours/part-00000-0000.parquet", 4.0 + wrong)
    write(theirs, "peer/predictions.parquet", 4.0)
    job = Job(tmp_path, 1, tmp_path, tmp_path, tmp_path, count())
    if wrong or abs(ours - theirs) > 2:
        with pytest.raises(RunError, match="differ"):
            check(job, tmp_path / "ours", {"one_process": tmp_path / "peer"})
    else:
        assert "equal bit for bit" in check(job, tmp_path / "ours", {"one_process": tmp_path / "peer"})
