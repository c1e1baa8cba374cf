"""MapReduce: the result is that of one process, whatever the spread, the order of messages, the memory and the keys."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import InputError, RaymillError, RunError
from tasks.parallel import external_merge, mapreduce_workers
from tasks.parallel.external_merge import ExternalMerge, SpillFile
from tasks.parallel.key_hash import BASE, key_hash, partition_by_hash
from tasks.parallel.mapreduce import Job, run, run_in_process
from tasks.parallel.mapreduce_workers import Reducer, pieces, split

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
    patch.setattr(mapreduce_workers, "PIECE_BYTES", 60)


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
            patch.setattr(mapreduce_workers, "PIECE_BYTES", random.randrange(20, 200))  # cut in other places each time
            cut = list(pieces(JOB, texts[index]))
            size = len(cut)
            calls: list[Callable[[], None]] = [
                lambda i=index, a=attempt, p=piece: reducer.take(i, a, (0, 1), *split(JOB, p, 2)) for piece in cut
            ]
            calls.append(lambda i=index, a=attempt, n=size: reducer.admit(i, a, n))
            queues.append(calls[:sent])
        while queues := [queue for queue in queues if queue]:
            random.choice(queues).pop(0)()
        assert counts_in([reducer.reduce(0), reducer.reduce(1)]) == Counter(" ".join(texts).split())


def test_an_attempt_that_lacks_a_piece_is_refused() -> None:
    reducer = Reducer(JOB, 1 << 20)
    reducer.take(4, 0, (0,), next(count("a")))
    with pytest.raises(RunError, match="1 pieces of attempt 0 at input 4 where attempt 0 has 2"):
        reducer.admit(4, 0, 2)


rows = st.lists(st.tuples(st.text("aé日\U0001f600\x00", max_size=3), st.integers(-2, 2)), max_size=30)


@given(tables=st.lists(rows, max_size=12), spilled=st.sets(st.integers(0, 11)), fan_in=st.integers(2, 4))
def test_what_was_spilled_is_merged_in_the_order_of_all_key_columns(
    tables: list[list[tuple[str, int]]], spilled: set[int], fan_in: int
) -> None:
    def total(records: pa.Table) -> pa.Table:
        return records.group_by(["s", "i"]).aggregate([("n", "sum")]).rename_columns(["s", "i", "n"])

    with pytest.MonkeyPatch.context() as patch:
        shrink(patch, fan_in)
        merge = ExternalMerge(("s", "i"), total, SpillFile())
        for number, table in enumerate(tables):
            merge.add(pa.table({"s": [s for s, _ in table], "i": [i for _, i in table], "n": [1] * len(table)}, KEYED))
            if number in spilled:
                merge.spill()
                assert merge.nbytes == 0
        got = [(r["s"], r["i"], r["n"]) for batch in merge.sorted() for r in batch.to_pylist()]
    assert got == [(s, i, n) for (s, i), n in sorted(Counter(r for table in tables for r in table).items())]


KEYED = pa.schema([("s", pa.string()), ("i", pa.int32()), ("n", pa.int64())])


@given(tables=st.lists(rows, max_size=12), spilled=st.sets(st.integers(0, 11)))
def test_all_rows_of_a_key_are_in_one_batch_where_combine_leaves_several(
    tables: list[list[tuple[str, int]]], spilled: set[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        merge = ExternalMerge(("s",), lambda records: records, SpillFile())
        for number, table in enumerate(tables):
            merge.add(pa.table({"s": [s for s, _ in table], "i": [i for _, i in table]}, schema=KEYED_ONCE))
            if number in spilled:
                merge.spill()
        got = [batch.to_pylist() for batch in merge.sorted()]
    assert sorted((r["s"], r["i"]) for batch in got for r in batch) == sorted(r for table in tables for r in table)
    keys = [s for batch in got for s in sorted({r["s"] for r in batch})]
    assert keys == sorted({s for table in tables for s, _ in table})


KEYED_ONCE = pa.schema([("s", pa.string()), ("i", pa.int32())])


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


def test_what_is_spilled_has_no_name_that_could_be_left_behind(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = SpillFile()
    table = next(count("a b c"))
    run = file.write([table, table])
    assert file.size > 0
    assert list(tmp_path.iterdir()) == []
    assert list(run) == [table, table]


def test_a_full_disk_is_an_error_that_says_which_disk(tmp_path: Path, monkeypatch: Any) -> None:
    class Full:
        def seek(self, offset: int) -> None: ...
        def write(self, data: Any) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(RunError, match="No space left on device") as caught:
        SpillFile().write([next(count("a"))])
    assert caught.value.where == str(tmp_path)
    assert "TMPDIR" in caught.value.fix


WORDS = ["", "a", "é", "eight888", "nine99999", "x" * 15, "x" * 16, "x" * 17, "日本" * 1000, "a\x00", "\x00"]


def test_the_hash_of_a_key_never_changes() -> None:
    # It decides which file a record is in: with another value here, digests of committed outputs change.
    records = pa.table({"s": ["", "a", "é", "nine99999"], "i": pa.array([0, 1, -1, 2**31 - 1], pa.int32())})
    assert [f"{h:016x}" for h in key_hash(records, ("s",))] == [
        "0000000000000000",
        "adb2a194834b0125",
        "055bb6d5187ca409",
        "2d93f95be465cdfc",
    ]
    assert [f"{h:016x}" for h in key_hash(records, ("i",))][1:] == [
        "7ab40e090f363a7d",
        "4bffd802ebfb15e4",
        "1c20b14bdc7c2097",
    ]
    assert f"{key_hash(records, ('s', 'i'))[1]:016x}" == "a9c7e8c013206870"


def mixed(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


@given(st.lists(st.one_of(st.text(max_size=40), st.text("\x00a", max_size=20)), max_size=8))
def test_the_hash_of_a_string_is_a_polynomial_over_its_words(strings: list[str]) -> None:
    def expected(data: bytes) -> int:
        words = [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)]
        total = len(data) + sum(word * BASE**power for power, word in enumerate(words, start=1))
        return mixed(mixed(total % 2**64))

    records = pa.table({"s": pa.array(strings, pa.string())})
    assert list(key_hash(records, ("s",))) == [expected(s.encode()) for s in strings]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_the_hash_of_a_string_depends_on_its_bytes_alone(kind: pa.DataType, monkeypatch: Any) -> None:
    whole = pa.chunked_array([pa.array(WORDS, kind)])
    alone = [key_hash(pa.table({"s": pa.array([w])}), ("s",))[0] for w in WORDS]
    assert len(set(alone)) == len(WORDS)
    assert list(key_hash(pa.table({"s": whole}), ("s",))) == alone
    assert list(key_hash(pa.table({"s": whole.slice(3)}), ("s",))) == alone[3:]
    monkeypatch.setattr("tasks.parallel.key_hash.ROWS_AT_ONCE", 2)
    assert (
        list(key_hash(pa.table({"s": pa.chunked_array([*whole.slice(0, 5).chunks, *whole.slice(5).chunks])}), ("s",)))
        == alone
    )


def test_the_hash_of_an_integer_depends_on_its_value_alone() -> None:
    numbers = [-128, -1, 0, 1, 127]
    hashes = [
        list(key_hash(pa.table({"i": pa.array(numbers, kind)}), ("i",))) for kind in (pa.int8(), pa.int32(), pa.int64())
    ]
    assert hashes[0] == hashes[1] == hashes[2]
    unsigned = pa.table({"i": pa.array([2**64 - 1, 1], pa.uint64())})
    assert len(set(key_hash(unsigned, ("i",)))) == 2


@pytest.mark.parametrize("key", [("s",), ("i",), ("s", "i")])
def test_keys_are_spread_evenly(key: tuple[str, ...]) -> None:
    number = np.arange(40_000)
    records = pa.table({"s": [f"user-{n:08d}" for n in number], "i": number * 1024})
    parts = partition_by_hash(records, key, 7)
    assert sum(part.num_rows for part in parts) == 40_000
    expected = 40_000 / 7
    assert all(abs(part.num_rows - expected) < 6 * expected**0.5 for part in parts)


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
    with pytest.raises(RunError, match="made 1 tables with 1 rows of 2 rows for 1 partitions"):
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


def test_a_bug_in_a_reducer_reaches_the_user_as_what_it_is(ray_session: None) -> None:
    with pytest.raises(KeyError, match="stars"):
        run(Job(count, ("token",), add_up, stumble), TEXTS[:2], partitions=2, mappers=1, reducers=1)
