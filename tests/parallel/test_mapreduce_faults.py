"""MapReduce whose actors are killed on the way: the result is that of one process, or an error worth a retry."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.core.errors import TransientError
from tasks.parallel import mapreduce_mapper, pool
from tasks.parallel.mapreduce import MAX_DEATHS, run, run_in_process
from tasks.parallel.mapreduce_job import Job

pytestmark = [pytest.mark.fault, pytest.mark.slow]

Result = list[tuple[str, int]]


def count(text: str) -> Iterator[pa.Table]:
    """A table a line, one row a word."""
    for line in text.split("\n"):
        words = line.split()
        yield pa.table({"token": words, "count": pa.array([1] * len(words), pa.int64())})


def add_up(records: pa.Table) -> pa.Table:
    return records.group_by("token").aggregate([("count", "sum")]).rename_columns(["token", "count"])


def to_counts(partition: int, records: Iterator[pa.Table]) -> Result:
    return [(row["token"], row["count"]) for table in records for row in table.to_pylist()]


JOB = Job(map=count, key=("token",), combine=add_up, reduce=to_counts)
# Some lines of their own words and of common ones: with small limits each input makes several pieces.
TEXTS = ["\n".join(f"the the cat{line % 2} w{text}-{line}" for line in range(12)) for text in range(6)]
PARTITIONS = 5


class Armed:
    """A function of a job that, where it is unpickled, sets what a test wants of that actor: when to die, small limits.

    `own_actors` sees to it that the process serves this test alone.
    """

    def __init__(self, function: Callable[..., Any], environment: dict[str, str]) -> None:
        self.function, self.environment = function, environment

    def __reduce__(self) -> Any:
        return arm, (self.function, self.environment)


def arm(function: Callable[..., Any], environment: dict[str, str]) -> Callable[..., Any]:
    os.environ.update(environment)
    tempfile.tempdir = None  # look at TMPDIR again
    mapreduce_mapper.PIECE_BYTES = 200
    return function


@pytest.fixture(autouse=True)
def own_actors(ray_session: None) -> Iterator[None]:
    yield
    pool.clear()


def dying(at: str, once: Path | None, **environment: str) -> Job:
    """The job whose actors die at this point: the first to come there, or all."""
    environment["RAYMILL_KILL_AT"] = f"mapreduce:{at}"
    if once:
        environment["RAYMILL_KILL_ONCE"] = str(once)
    return replace(JOB, map=Armed(count, environment))


def on_ray(job: Job, *, reducers: int = 2, on_mapped: Callable[[int], None] | None = None) -> list[Any]:
    return run(job, TEXTS, partitions=PARTITIONS, mappers=2, reducers=reducers, spill_bytes=100, on_mapped=on_mapped)


def test_each_input_makes_several_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    # Or nobody would die in the middle of one.
    monkeypatch.setattr(mapreduce_mapper, "PIECE_BYTES", 200)
    assert all(len(list(mapreduce_mapper.pieces(JOB, text))) >= 2 for text in TEXTS)


def counts_and_files(partition: int, records: Iterator[pa.Table]) -> tuple[Result, int]:
    """The counts, and how many files this process has open in TMPDIR."""
    links = [os.readlink(link) for link in Path("/proc/self/fd").glob("*") if link.is_symlink()]
    return to_counts(partition, records), sum(link.startswith(os.environ["TMPDIR"]) for link in links)


@pytest.mark.parametrize(
    ("at", "reducers"),
    [
        pytest.param("mapped:0", 1, marks=pytest.mark.nightly),
        ("mapped:4", 3),
        pytest.param("taken:0", 2, marks=pytest.mark.nightly),
        ("taken:5", 1),
        ("reduced:0", 1),
        pytest.param("reduced:4", 3, marks=pytest.mark.nightly),
    ],
)
def test_a_death_changes_nothing_and_leaves_nothing_behind(
    ray_session: None, tmp_path: Path, at: str, reducers: int
) -> None:
    spilled, died = tmp_path / "spilled", tmp_path / "died"
    spilled.mkdir()
    mapped: list[int] = []
    job = replace(dying(at, once=died, TMPDIR=str(spilled)), reduce=counts_and_files)
    got = on_ray(job, reducers=reducers, on_mapped=mapped.append)
    assert died.exists(), "nobody died"
    assert [result for result, _ in got] == run_in_process(JOB, TEXTS, partitions=PARTITIONS)
    assert dict(pair for result, _ in got for pair in result) == Counter(" ".join(TEXTS).split())
    assert sorted(mapped) == list(range(len(TEXTS)))
    if Path("/proc/self/fd").is_dir():  # or files without a name cannot be seen
        assert all(files == 1 for _, files in got), "nothing was spilled"
    assert list(spilled.iterdir()) == []


def test_an_actor_that_dies_each_time_is_a_fault_worth_a_retry_and_not_tried_for_ever(ray_session: None) -> None:
    with pytest.raises(TransientError, match=f"{MAX_DEATHS + 1} mappers and reducers died"):
        on_ray(dying("mapped:2", once=None))
