"""Partitioned scoring on Ray: the results of one process, whatever the strategy and whoever dies."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import ChunkFailed, InputError
from tasks.core.snapshot_files import FileEntry, FileSink, part_name
from tasks.parallel import partition, pool
from tasks.parallel.chunks import Chunk, chunks_of, read_chunk
from tasks.parallel.partition_plan import STRATEGIES, Strategy

COLUMNS = ("review_id", "stars")


def twice(environment: dict[str, str] | None = None) -> Callable[[pa.Table], pa.Table]:
    """The scorer; it refuses a chunk with a row of no stars. `environment` is set in its worker."""
    os.environ.update(environment or {})

    def score(rows: pa.Table) -> pa.Table:
        assert rows.column_names == list(COLUMNS)
        if rows["stars"].null_count:
            raise ValueError("a review without stars")
        return pa.table({"review_id": rows["review_id"], "prediction": pc.multiply(rows["stars"], 2.0)})

    return score


def write_part(folder: str, chunk: Chunk, table: pa.Table) -> FileEntry:
    return FileSink(folder).write_table(part_name(chunk.index), table)


def written(folder: Path, *, poison: int | None = None) -> list[Path]:
    """Three files of 100, 0 and 230 reviews in row groups of ten; the review `poison` has no stars."""
    files, first = [], 0
    for number, rows in enumerate((100, 0, 230)):
        ids = range(first, first + rows)
        stars = [None if i == poison else float(i % 5) for i in ids]
        table = pa.table(
            {
                "review_id": pa.array([f"R{i}" for i in ids], pa.string()),
                "text": pa.array(["a text that nobody asked for"] * rows, pa.string()),
                "stars": pa.array(stars, pa.float64()),
            }
        )
        files.append(folder / f"in-{number}.parquet")
        pq.write_table(table, files[-1], row_group_size=10)
        first += rows
    return files


def test_chunks_cover_every_row_once_in_order_by_whole_row_groups(tmp_path: Path) -> None:
    files = written(tmp_path)
    whole = pa.concat_tables([pq.read_table(file, columns=list(COLUMNS)) for file in files])
    for rows in (1, 10, 25, 1000):
        chunks = chunks_of(files, rows, COLUMNS)
        assert pa.concat_tables([read_chunk(chunk, COLUMNS) for chunk in chunks]).equals(whole)
        assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
        assert all(chunk.rows <= max(rows, 10) for chunk in chunks)
    every = chunks_of(files, 1000)
    assert sum(chunk.bytes for chunk in every) > sum(chunk.bytes for chunk in chunks)


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("stars")
    with pytest.raises(InputError, match=r"notes.txt: cannot be read as parquet"):
        chunks_of([tmp_path / "notes.txt"], 10)


@pytest.fixture
def own_workers(ray_session: None) -> Iterator[None]:
    yield
    pool.clear()  # they have the variables of a test


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_strategy_gives_the_tables_of_one_process(ray_session: None, tmp_path: Path, strategy: Strategy) -> None:
    import ray

    chunks = chunks_of(written(tmp_path), 20, COLUMNS)
    result = partition.run(chunks, twice, strategy=strategy, workers=2, columns=COLUMNS, shard_bytes=2000)
    assert all(isinstance(receipt, ray.ObjectRef) for receipt in result.receipts)
    oracle = partition.run_in_process(chunks, twice, columns=COLUMNS)
    assert [table.to_pydict() for table in ray.get(result.receipts)] == [table.to_pydict() for table in oracle]
    assert sorted(span.chunk for span in result.spans) == list(range(len(chunks)))
    assert all(span.seconds > 0 for span in result.spans)
    assert (result.counts.failures, result.counts.deaths, result.set_aside) == (0, 0, [])


@pytest.mark.fault
@pytest.mark.parametrize(
    ("strategy", "at"),
    [
        pytest.param("uniform", "partition:read:3", marks=pytest.mark.nightly),
        ("dynamic", "partition:written:9"),
        ("sharded", "partition:read:9"),
    ],
)
def test_a_killed_worker_loses_and_repeats_nothing(
    own_workers: None, tmp_path: Path, strategy: Strategy, at: str
) -> None:
    chunks = chunks_of(written(tmp_path), 20, COLUMNS)
    out, died, oracle = tmp_path / "out", tmp_path / "died", tmp_path / "oracle"
    kill = {"RAYMILL_KILL_AT": at, "RAYMILL_KILL_ONCE": str(died)}
    settled: list[Chunk] = []
    result = partition.run(
        chunks,
        twice,
        (kill,),
        strategy=strategy,
        workers=2,
        columns=COLUMNS,
        sink=partial(write_part, str(out)),
        shard_bytes=2000,
        on_settled=settled.append,
    )
    assert died.exists(), "nobody died"
    # Another worker of `dynamic` may have done the chunk before the death is heard of.
    assert result.counts.deaths == 1 or (strategy == "dynamic" and result.counts.speculated)
    assert result.receipts == partition.run_in_process(
        chunks, twice, columns=COLUMNS, sink=partial(write_part, str(oracle))
    )
    assert sorted(file.name for file in out.iterdir()) == [receipt.name for receipt in result.receipts]
    assert sorted(chunk.index for chunk in settled) == list(range(len(chunks)))


def test_a_poison_chunk_is_set_aside_with_its_error_or_fails_the_run(ray_session: None, tmp_path: Path) -> None:
    chunks = chunks_of(written(tmp_path, poison=47), 20, COLUMNS)
    score = partial(
        partition.run, chunks, twice, strategy="sharded", workers=2, columns=COLUMNS, sink=partial(rows_of), tries=2
    )
    result = score(poison="set-aside")
    assert result.receipts == [None if chunk.index == 2 else chunk.rows for chunk in chunks]
    (trouble,) = result.set_aside
    assert str(trouble) == "failed 2 times on 2 workers: ValueError: a review without stars"
    with pytest.raises(ChunkFailed, match=r"chunk 2 \(in-0.parquet, row groups 4 to 5\): failed 2 times on 2 workers"):
        score()
    with pytest.raises(ChunkFailed, match=r"chunk 2 .*a review without stars"):
        partition.run_in_process(chunks, twice, columns=COLUMNS)


def rows_of(chunk: Chunk, table: pa.Table) -> Any:
    return table.num_rows


def test_a_factory_that_carries_an_array_is_refused(ray_session: None) -> None:
    with pytest.raises(ValueError, match="would travel to each worker"):
        partition.run([], twice, (bytes(2 << 20),), strategy="uniform", workers=1)
