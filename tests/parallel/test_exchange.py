"""Keyed exchange: each row gets the answer over all rows of its key, in the block and place it came from."""

from __future__ import annotations

from collections import Counter
from functools import partial

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.errors import InputError
from tasks.engines.cluster import gather
from tasks.parallel.exchange import by_block, exchange_in_process, hash_partition, keyed_exchange, stacked

Blocks = list[list[int]]


def split(block: pa.Table, buckets: int) -> list[pa.Table]:
    home = [key % buckets for key in block["key"].to_pylist()]
    return [block.filter(pa.array([h == b for h in home], pa.bool_())) for b in range(buckets)]


def count_earlier_and_all(slices: list[pa.Table]) -> list[pa.Table]:
    """For each row: how many rows of its key came before it, over all blocks, and how many there are."""
    total = Counter(key for part in slices for key in part["key"].to_pylist())
    seen: Counter[int] = Counter()
    answers = []
    for part in slices:
        earlier = []
        for key in part["key"].to_pylist():
            earlier.append(seen[key])
            seen[key] += 1
        answers.append(
            pa.table(
                {
                    "row": part["row"],
                    "earlier": pa.array(earlier, pa.int64()),
                    "all": pa.array([total[k] for k in part["key"].to_pylist()], pa.int64()),
                }
            )
        )
    return answers


def tables_of(blocks: Blocks) -> list[pa.Table]:
    return [
        pa.table({"row": pa.array(range(len(keys)), pa.int64()), "key": pa.array(keys, pa.int64())}) for keys in blocks
    ]


def obvious(blocks: Blocks) -> list[list[tuple[int, int]]]:
    flat = [key for keys in blocks for key in keys]
    answers, at = [], 0
    for keys in blocks:
        answers.append([(flat[: at + i].count(key), flat.count(key)) for i, key in enumerate(keys)])
        at += len(keys)
    return answers


def in_place(answered: list[list[pa.Table]]) -> list[list[tuple[int, int]]]:
    merged = [pa.concat_tables(parts).sort_by("row") for parts in answered]
    return [list(zip(m["earlier"].to_pylist(), m["all"].to_pylist(), strict=True)) for m in merged]


@settings(max_examples=80, deadline=None)
@given(
    blocks=st.lists(st.lists(st.integers(0, 6), max_size=9), min_size=1, max_size=5),
    buckets=st.integers(1, 7),
)
def test_any_number_of_blocks_and_buckets_gives_the_obvious_answer(blocks: Blocks, buckets: int) -> None:
    answered = exchange_in_process(tables_of(blocks), split, count_earlier_and_all, buckets)
    assert [len(parts) for parts in answered] == [buckets] * len(blocks)
    assert in_place(answered) == obvious(blocks)


@pytest.mark.parametrize("buckets", [1, 3])
@pytest.mark.parametrize(
    "blocks", [[[1, 2, 1]], [[1, 2, 3, 2], [], [2, 1, 5, 5, 2]]], ids=["one block", "three blocks"]
)
def test_ray_gives_what_the_oracle_gives(ray_session: None, blocks: Blocks, buckets: int) -> None:
    import ray

    expected = exchange_in_process(tables_of(blocks), split, count_earlier_and_all, buckets)
    for given_blocks in (tables_of(blocks), [ray.put(t) for t in tables_of(blocks)]):
        answered = keyed_exchange(given_blocks, split, count_earlier_and_all, buckets)
        got = [gather(parts) for parts in answered]
        assert [len(parts) for parts in got] == [buckets] * len(blocks)
        for parts, expected_parts in zip(got, expected, strict=True):
            assert all(p.equals(e) for p, e in zip(parts, expected_parts, strict=True))


def refuse(slices: list[pa.Table], why: str) -> list[pa.Table]:
    raise InputError(why, where="row 3")


def test_an_error_of_a_bucket_is_raised_as_it_is(ray_session: None) -> None:
    answered = keyed_exchange(tables_of([[1], [2]]), split, partial(refuse, why="odd"), 2)
    with pytest.raises(InputError) as caught:
        gather(answered[0])
    assert str(caught.value) == "row 3: odd"


@given(keys=st.lists(st.integers(0, 6), max_size=9), buckets=st.integers(1, 4))
def test_the_rows_of_a_key_meet_in_one_bucket_and_their_answers_return_in_order(keys: list[int], buckets: int) -> None:
    rows = pl.DataFrame({"key": keys, "row": range(len(keys))}, schema={"key": pl.UInt64, "row": pl.Int64})
    split_rows = hash_partition(rows, pl.col("key"), buckets)
    assert [t["row"].to_pylist() for t in split_rows] == [
        [row for row, key in enumerate(keys) if key % buckets == b] for b in range(buckets)
    ]
    assert [t.to_pylist() for t in by_block(stacked(split_rows), buckets)] == [t.to_pylist() for t in split_rows]
