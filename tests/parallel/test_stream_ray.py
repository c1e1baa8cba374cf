"""A stream on Ray: every row once, though a worker is killed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.parallel import pool, stream
from tasks.parallel.stream import Limits
from tasks.parallel.stream_arrivals import Replay

ROWS = pa.table({"row": range(1000)})


def added(environment: dict[str, str]) -> Callable[[pa.Table], pa.Table]:
    os.environ.update(environment)
    return lambda rows: rows


def total(first: int, rows: pa.Table) -> tuple[int, int]:
    return first, sum(rows["row"].to_pylist())


@pytest.fixture
def own_workers(ray_session: None) -> Iterator[None]:
    yield
    pool.clear()


@pytest.mark.fault
def test_a_stream_scores_each_row_once_though_a_worker_is_killed(own_workers: None, tmp_path: Path) -> None:
    # All rows have arrived at the beginning, so the borders of batches are known.
    died = tmp_path / "died"
    kill = {"RAYMILL_KILL_AT": "stream:read:320", "RAYMILL_KILL_ONCE": str(died)}
    crew = stream.crew(added, (kill,), 2, total)
    receipts: list[tuple[int, int]] = []
    try:
        source = Replay(ROWS, 1e9, 1e-6, crew.now())
        report = stream.run(
            source, crew, Limits(10_000, 64, "wait", deadline_s=60.0), lambda _, __, receipt: receipts.append(receipt)
        )
    finally:
        crew.close(done=False)
    assert died.exists(), "nobody died"
    assert (report.scored, report.failed, report.deaths) == (1000, 0, 1)
    assert sorted(first for first, _ in receipts) == list(range(0, 1000, 64))
    assert sum(of_batch for _, of_batch in receipts) == sum(range(1000))
