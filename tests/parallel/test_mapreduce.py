"""MapReduce: the result is that of one process, whatever the spread, the order of messages, the memory and the keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import InputError, RaymillError, RunError
from tasks.parallel import external_merge, mapreduce_mapper
from tasks.parallel.mapreduce import run, run_in_process
from tasks.parallel.mapreduce_job import Job
from tasks.parallel.mapreduce_mapper import pieces, split
from tasks.parallel.mapreduce_reducer import Reducer

SCHEMA = pa.schema([("token", pa.string()), ("count", pa.int64())])
Counts = dict[str, int]


def count(text: str) -> Iterator[pa.Table]:
    """A table a line, one row a word, equal words not merged: that is for `combine`."""
    for line in text.split("\n"):
        words = line.split()
        yield pa.table({"token": words, "count": [1] * len(words)}, schema=SCHEMA)


def add_up(records: pa.Table) -> pa.Table:
    return records.group_by("token").aggregate([("count", "sum")]).rename_columns(["token", "count"])


def to_counts(partition: int, records: Iterator[pa.Table]) -> tuple[int, list[tuple[str, int]]]:
    return partition, [(row["token"], row["count"]) for table in records for row in table.to_pylist()]


JOB = Job(map=count, key=("token",), combine=add_up, reduce=to_counts)
ANIMALS = ("cat", "dog", "bird")
TEXTS = [f"the {ANIMALS[i % 3]} sat\n{'the ' * (i % 4)} w{i % 7} é{i}" for i in range(20)]

texts = st.lists(
    st.lists(st.sampled_from(["a", "b", "c", "dd", "é", "日", "\U0001f600", "\n"]), max_size=12).map(" ".join),
    max_size=9,
)


def counts_in(results: list[Any]) -> Counts:
    assert [partition for partition, _ in results] == list(range(len(results)))
    for _, counted in results:
        tokens = [token for token, _ in counted]
        assert tokens == sorted(set(tokens)), "not in ascending order, or a token twice"
    every = [token for _, counted in results for token, _ in counted]
    assert len(every) == len(set(every)), "a token is in two partitions"
    return {token: n for _, counted in results for token, n in counted}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


def shrink(patch: pytest.MonkeyPatch, fan_in: int = 3) -> None:
    """Limits so small that some rows pass them."""
    patch.setattr(external_merge, "FRESH_BYTES", 60)
    patch.setattr(external_merge, "FRESH_TABLES", 3)
    patch.setattr(external_merge, "BATCH_BYTES", 40)
    patch.setattr(external_merge, "FAN_IN", fan_in)
    patch.setattr(mapreduce_mapper, "PIECE_BYTES", 60)


@given(texts=texts, partitions=st.integers(1, 5))
def test_word_count_in_process_equals_counter(texts: list[str], partitions: int) -> None:
    assert counts_in(run_in_process(JOB, texts, partitions=partitions)) == Counter(" ".join(texts).split())


@given(
    texts=texts.filter(len),
    dead=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 6)), max_size=8),
    spill_bytes=st.integers(0, 300),
    random=st.randoms(use_true_random=False),
)
def test_a_reducer_counts_each_input_once_whatever_comes_of_dead_mappers_and_when(
    texts: list[str], dead: list[tuple[int, int]], spill_bytes: int, random: Any
) -> None:
    """dead: of each mapper that died its input, and how many of its messages it had sent.

    Messages of one mapper come in order; those of several in any.
    """
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        reducer = Reducer(JOB, spill_bytes)
        queues = []
        lives = [(index % len(texts), sent) for index, sent in dead] + [(index, None) for index in range(len(texts))]
        for attempt, (index, sent) in enumerate(lives):
            patch.setattr(mapreduce_mapper, "PIECE_BYTES", random.randrange(20, 200))  # cut in other places each time
            cut = list(pieces(JOB, texts[index]))
            size = len(cut)
            calls: list[Callable[[], None]] = [
                lambda i=index, a=attempt, p=piece: reducer.take(i, a, (0, 1), *split(JOB, p, 2)) for piece in cut
            ]
            calls.append(lambda i=index, a=attempt, n=size: reducer.admit(i, a, n))
            queues.append(calls[:sent])
        while queues := [queue for queue in queues if queue]:
            random.choice(queues).pop(0)()
        assert not reducer.attempts, "something is kept for ever"
        assert counts_in([reducer.reduce(0), reducer.reduce(1)]) == Counter(" ".join(texts).split())


def test_an_attempt_that_lacks_a_piece_is_refused() -> None:
    reducer = Reducer(JOB, 1 << 20)
    reducer.take(4, 0, (0,), next(count("a")))
    with pytest.raises(RunError, match="1 pieces of attempt 0 at input 4, but attempt 0 sent 2"):
        reducer.admit(4, 0, 2)


def test_a_reducer_holds_no_more_than_it_may_and_streams_the_rest_from_disk(small: None) -> None:
    reducer = Reducer(JOB, spill_bytes=2000)
    for index in range(100):
        reducer.take(index, index, (0,), next(count(" ".join(f"w{index % 50}-{i}" for i in range(10)))))
        reducer.admit(index, index, 1)
        assert reducer.admitted[0].nbytes <= 2000
    assert len(reducer.admitted[0].runs) > 3
    batches = list(reducer.admitted[0].sorted())
    assert sum(batch.num_rows for batch in batches) == 500
    assert max(batch.nbytes for batch in batches) < 1000


def test_a_hot_key_costs_a_reducer_one_row_a_piece(small: None) -> None:
    lines = [f"hot hot hot hot {'hot ' * 50} cold{i}" for i in range(40)]
    cut = list(pieces(JOB, "\n".join(lines)))
    assert len(cut) > 3
    hot = [row["count"] for piece in cut for row in piece.to_pylist() if row["token"] == "hot"]
    assert sum(hot) == 40 * 54
    assert len(hot) <= len(cut)


def with_records(columns: dict[str, Any]) -> Job:
    return Job(map=lambda _: [pa.table(columns)], key=("token",), combine=lambda r: r, reduce=to_counts)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"token": ["a", None, None]}, "the key column token has 2 nulls"),
        ({"word": ["a"]}, "no key column token among word"),
        ({"token": [0.5]}, "the key column token is of type double"),
    ],
)
def test_records_that_cannot_be_keyed_are_refused(columns: dict[str, Any], said: str) -> None:
    with pytest.raises(RunError, match=said):
        run_in_process(with_records(columns), [0], partitions=2)


def test_a_partition_function_that_loses_rows_is_refused() -> None:
    job = Job(map=count, key=("token",), combine=add_up, reduce=to_counts, partition=lambda r, p: [r.slice(1)] * p)
    with pytest.raises(RunError, match="returned 1 tables with 1 rows for 1 partitions and 2 rows"):
        run_in_process(job, ["a b"], partitions=1)


def test_a_partition_function_of_the_jobs_own_decides() -> None:
    def by_length(records: pa.Table, partitions: int) -> list[pa.Table]:
        home = np.array([len(t) % partitions for t in records["token"].to_pylist()])
        return [records.filter(pa.array(home == p)) for p in range(partitions)]

    job = Job(map=count, key=("token",), combine=add_up, reduce=to_counts, partition=by_length)
    assert run_in_process(job, ["bb a", "a ccc"], partitions=2) == [(0, [("bb", 1)]), (1, [("a", 2), ("ccc", 1)])]


@pytest.mark.parametrize(
    ("inputs", "partitions", "mappers", "reducers", "spill_bytes"),
    [(len(TEXTS), 5, 2, 3, 300), (3, 1, 4, 4, 0), (1, 4, 1, 1, 1 << 28), (0, 2, 1, 1, 0)],
)
def test_ray_gives_what_the_oracle_gives(
    ray_session: None, inputs: int, partitions: int, mappers: int, reducers: int, spill_bytes: int
) -> None:
    mapped: list[int] = []
    got = run(
        JOB,
        TEXTS[:inputs],
        partitions=partitions,
        mappers=mappers,
        reducers=reducers,
        spill_bytes=spill_bytes,
        on_mapped=mapped.append,
    )
    assert got == run_in_process(JOB, TEXTS[:inputs], partitions=partitions)
    assert counts_in(got) == Counter(" ".join(TEXTS[:inputs]).split())
    assert sorted(mapped) == list(range(inputs))


def refuse(*_: Any) -> Any:
    raise InputError("no words", where="file 3")


def stumble(*_: Any) -> Any:
    raise KeyError("stars")


@pytest.mark.parametrize("role", ["map", "combine", "reduce"])
def test_an_error_of_the_jobs_functions_reaches_the_user_as_it_was_raised(ray_session: None, role: str) -> None:
    functions = {"map": count, "combine": add_up, "reduce": to_counts}
    with pytest.raises(RaymillError) as caught:
        run(Job(key=("token",), **{**functions, role: refuse}), TEXTS[:2], partitions=2, mappers=1, reducers=1)
    assert type(caught.value) is InputError
    assert str(caught.value) == "file 3: no words"


class Unpicklable:
    def __call__(self, *_: Any) -> Any: ...

    def __reduce__(self) -> Any:
        return nowhere, ()


def nowhere() -> Any:
    raise ModuleNotFoundError("No module named 'nowhere'")


def test_an_actor_that_cannot_start_is_not_tried_again(ray_session: None) -> None:
    with pytest.raises(RunError, match="could not start: ModuleNotFoundError: No module named 'nowhere'"):
        run(Job(count, ("token",), add_up, Unpicklable()), TEXTS[:2], partitions=2, mappers=1, reducers=1)


def test_a_bug_in_a_reducer_reaches_the_user_as_what_it_is(ray_session: None) -> None:
    with pytest.raises(KeyError, match="stars"):
        run(Job(count, ("token",), add_up, stumble), TEXTS[:2], partitions=2, mappers=1, reducers=1)
