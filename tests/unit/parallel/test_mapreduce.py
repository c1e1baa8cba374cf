"""MapReduce: a word count equals Counter's, on any spread of inputs, and a piece counts once however often it comes."""

from __future__ import annotations

import os
import signal
from collections import Counter
from zlib import crc32

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.errors import InputError, RaymillError, TransientError
from tasks.parallel.mapreduce import MERGE_AFTER_PIECES, Job, Reducer, run, run_in_process

SCHEMA = pa.schema([("token", pa.string()), ("count", pa.int64())])
Counts = dict[str, int]


def count(text: str) -> pa.Table:
    """One row a word, equal words not merged: that is for `combine`."""
    words = text.split()
    return pa.table({"token": words, "count": [1] * len(words)}, schema=SCHEMA)


def add_up(records: pa.Table) -> pa.Table:
    return records.group_by("token").aggregate([("count", "sum")]).rename_columns(["token", "count"]).cast(SCHEMA)


def by_token(records: pa.Table, partitions: int) -> list[pa.Table]:
    home = [crc32(t.encode()) % partitions for t in records["token"].to_pylist()]
    return [records.filter(pa.array([h == p for h in home], pa.bool_())) for p in range(partitions)]


def to_counts(partition: int, records: pa.Table) -> tuple[int, Counts]:
    return partition, dict(zip(records["token"].to_pylist(), records["count"].to_pylist(), strict=True))


JOB = Job(map=count, combine=add_up, partition=by_token, finish=to_counts)
ANIMALS = ("cat", "dog", "bird")
TEXTS = [f"the {ANIMALS[i % 3]} sat {'the ' * (i % 4)} w{i % 7}" for i in range(3 * MERGE_AFTER_PIECES)]


def merged(results: list[tuple[int, Counts]]) -> Counts:
    assert [partition for partition, _ in results] == list(range(len(results)))
    tokens = [t for _, counts in results for t in counts]
    assert len(tokens) == len(set(tokens)), "a token is in two partitions"
    return {t: n for _, counts in results for t, n in counts.items()}


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(
        st.lists(st.sampled_from(["a", "b", "c", "dd", "é", "日"]), max_size=12).map(" ".join), min_size=1, max_size=9
    ),
    partitions=st.integers(1, 5),
)
def test_word_count_in_process_equals_counter(texts: list[str], partitions: int) -> None:
    assert merged(run_in_process(JOB, texts, partitions=partitions)) == Counter(" ".join(texts).split())


@settings(max_examples=40, deadline=None)
@given(
    order=st.permutations(range(2 * MERGE_AFTER_PIECES + 3)),
    again=st.lists(st.integers(0, 2 * MERGE_AFTER_PIECES), max_size=9),
)
def test_a_reducer_counts_each_piece_once_in_any_order_and_however_often_it_comes(
    order: list[int], again: list[int]
) -> None:
    pieces = {i: add_up(count(TEXTS[i])) for i in order}
    reducer = Reducer(JOB)
    for index in [*order[: len(order) // 2], *again, *order, *again]:
        reducer.take(0, index, pieces[index])
    assert reducer.finish(0) == (0, Counter(" ".join(TEXTS[i] for i in order).split()))


def test_a_reducer_keeps_its_partitions_apart() -> None:
    reducer = Reducer(JOB)
    for partition, index, text in ((0, 0, "a a"), (4, 0, "b"), (0, 1, "a c")):
        reducer.take(partition, index, count(text))
    assert reducer.finish(0) == (0, {"a": 3, "c": 1})
    assert reducer.finish(4) == (4, {"b": 1})


@pytest.mark.parametrize(
    ("inputs", "partitions", "mappers", "reducers"), [(len(TEXTS), 5, 2, 3), (3, 1, 4, 4), (1, 4, 1, 1)]
)
def test_ray_gives_what_the_oracle_gives(
    ray_session: None, inputs: int, partitions: int, mappers: int, reducers: int
) -> None:
    got = run(JOB, TEXTS[:inputs], partitions=partitions, mappers=mappers, reducers=reducers)
    assert got == run_in_process(JOB, TEXTS[:inputs], partitions=partitions)
    assert merged(got) == Counter(" ".join(TEXTS[:inputs]).split())


def refuse(text: str) -> pa.Table:
    raise InputError("no words", where="file 3")


def die(text: str) -> pa.Table:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still here")


def with_map(function: object) -> Job:
    return Job(map=function, combine=add_up, partition=by_token, finish=to_counts)  # type: ignore[arg-type]


def test_an_error_of_a_mapper_reaches_the_user_as_it_was_raised(ray_session: None) -> None:
    with pytest.raises(RaymillError) as caught:
        run(with_map(refuse), TEXTS[:2], partitions=2, mappers=1, reducers=1)
    assert type(caught.value) is InputError
    assert str(caught.value) == "file 3: no words"


def test_a_lost_mapper_is_a_fault_worth_a_retry(ray_session: None) -> None:
    with pytest.raises(TransientError):
        run(with_map(die), TEXTS[:2], partitions=2, mappers=1, reducers=1)
