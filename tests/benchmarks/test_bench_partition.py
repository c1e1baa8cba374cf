"""The work, the checks and the tables of the cases partition and stream."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import partition_matrix, scoring_work
from benchmarks.cases import partition, stream
from tasks.parallel.chunks import Chunk, chunks_of, read_chunk
from tasks.parallel.partition_plan import STRATEGIES


def made(rows: int, folder: Path) -> list[Path]:
    scoring_work._write_rows(rows, folder)
    return sorted(folder.glob("*.parquet"))


def test_chunks_of_any_size_give_the_digest_of_the_whole(tmp_path: Path) -> None:
    files = made(5000, tmp_path / "in")
    scoring_work._write_cells(1 << 10, tmp_path / "cells.npy")
    score = scoring_work.lookups(str(tmp_path / "cells.npy"))
    whole = scoring_work.digest(score(pq.read_table(files)))
    assert whole[0] == 5000
    parts = [score(read_chunk(chunk, scoring_work.COLUMNS)) for chunk in chunks_of(files, 2048, scoring_work.COLUMNS)]
    assert len(parts) == 3
    assert scoring_work.added(scoring_work.digest(part) for part in reversed(parts)) == whole
    changed = parts[0].set_column(1, "prediction", pa.array(np.roll(parts[0]["prediction"].to_numpy(), 1)))
    assert scoring_work.digest(changed) != scoring_work.digest(parts[0])


def test_one_worker_alone_is_slowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    times = iter(range(100))
    monkeypatch.setattr(scoring_work, "time", SimpleNamespace(perf_counter=times.__next__, sleep=slept.append))
    scorers = [scoring_work.slowed(lambda: lambda table: table, (), str(tmp_path / "slow"), 4) for _ in range(3)]
    for _ in range(2):
        assert all(score(pa.table({"row": [1]})).num_rows == 1 for score in scorers)
    assert slept == [3, 3]


def test_a_part_is_written_whole_under_the_name_of_its_chunk(tmp_path: Path) -> None:
    table = pa.table({"row": [3, 4], "prediction": pa.array([0.5, 0.25], pa.float32())})
    assert scoring_work.write_part(str(tmp_path), Chunk(7, "x", 0, 1, 2, 8), table) == scoring_work.digest(table)
    assert [file.name for file in tmp_path.iterdir()] == ["part-000007.parquet"]
    assert pq.read_table(tmp_path / "part-000007.parquet").equals(table)


def test_predictions_that_differ_stop_the_case() -> None:
    job = partition.Job([], [Chunk(0, "x", 0, 1, 10, 8)], "", 2, Path())
    assert "10 predictions" in partition.check(job, partition.Output((10, 5)), {"peer": partition.Output((10, 5))})
    with pytest.raises(AssertionError, match="of peer"):
        partition.check(job, partition.Output((10, 5)), {"peer": partition.Output((10, 6))})
    with pytest.raises(AssertionError, match="9 rows of 10"):
        partition.check(job, partition.Output((9, 5)), {})
    with pytest.raises(AssertionError, match="of batch"):
        stream.check(stream.Job(None, [], "", 2, Path()), (10, 5), {"batch": (9, 5)})


def cells() -> list[dict[str, Any]]:
    """A matrix in which two workers are 1.6 times as fast as one, and four as two."""
    facts = {"chunks": 4, "rows": 1000, "chunk_p50_s": 0.1, "chunk_p95_s": 0.1, "chunk_p99_s": 0.2}
    more = {"workers_cpu_s": 1.0, "peak_rss_bytes": 1 << 20, "balance": 1.0}
    return [
        {"work": work, "strategy": s, "workers": w, "chunk_rows": rows, "median_s": t, "min_s": t, "max_s": t}
        | {"rows_per_s": 1000 / t, **facts, **more}
        for work, s, (w, t), rows in itertools.product(
            ("booster", "lookups"), STRATEGIES, {1: 8.0, 2: 5.0, 4: 5.0}.items(), (100, 200, 300)
        )
    ]


def test_the_matrix_is_written_as_tables_and_pictures(tmp_path: Path) -> None:
    partition_matrix.write(tmp_path, cells(), 1000)
    with (tmp_path / "matrix.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 54
    two = next(row for row in rows if row["workers"] == "2")
    assert (float(two["speed_up"]), float(two["efficiency"]), float(two["karp_flatt"])) == (1.6, 0.8, 0.25)
    assert json.loads((tmp_path / "matrix.json").read_text())["cells"][0]["karp_flatt"] is None
    for name in ("bars.png", "lines.png", "heatmap-booster.png", "heatmap-lookups.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert f'src="{name}"' in (tmp_path / "index.html").read_text()
    (fit, *_) = partition_matrix.fits(cells(), 2)
    assert (fit["alone_s"], fit["serial_fraction"]) == (pytest.approx(8), pytest.approx(0.25))
