"""Keyed exchange: every block sends its rows by key and gets back answers computed from all rows that share its keys.

This is the two-sided shuffle behind duplicates and past-only aggregates. Each of M blocks is split by key into B
buckets. Each bucket sees its slice of every block and computes one answer per block. Block i then holds the answers of
B buckets. The M x B pieces go from task to task through the object store, none through the driver. Unlike MapReduce
(Dean and Ghemawat, 2004), the exchange returns reduced rows to the block they came from.

An answer depends on the rows alone, not on the number of workers or the order in which tasks end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

Split = Callable[[Any, int], list[pa.Table]]
Answer = Callable[[list[pa.Table]], list[pa.Table]]
Partition = Callable[[Any, int], list[Any]]
Reduce = Callable[[int, list[Any]], Any]


def keyed_exchange(blocks: Sequence[Any], split: Split, answer: Answer, buckets: int) -> list[list[Any]]:
    """Run the exchange on Ray.

    blocks: M references (or small values). split(block, B) returns B tables. answer(slices) takes the M slices of one
    bucket in block order and returns M tables. Returns M lists of B references.
    """
    import ray

    split_task = ray.remote(_split).options(num_returns=buckets)
    answer_task = ray.remote(_answer).options(num_returns=len(blocks))
    sliced = [_listed(split_task.remote(split, block, buckets), buckets) for block in blocks]
    answered = [
        _listed(answer_task.remote(answer, *(slices[b] for slices in sliced)), len(blocks)) for b in range(buckets)
    ]
    return [[answers[i] for answers in answered] for i in range(len(blocks))]


def exchange_in_process(blocks: Sequence[Any], split: Split, answer: Answer, buckets: int) -> list[list[pa.Table]]:
    """Run the exchange without Ray, as the tests' oracle."""
    sliced = [split(block, buckets) for block in blocks]
    answered = [answer([slices[b] for slices in sliced]) for b in range(buckets)]
    return [[answers[i] for answers in answered] for i in range(len(blocks))]


def shuffle(blocks: Sequence[Any], split: Partition, reduce: Reduce, buckets: int) -> list[Any]:
    """Run the one-sided half on Ray: every bucket reduces its slices and keeps the result.

    blocks: M references (or small values). split(block, B) returns B picklable values, preferably Arrow tables.
    reduce(bucket, slices) takes the M slices of one bucket in block order. Returns B references, in bucket order.
    """
    import ray

    split_task = ray.remote(_split).options(num_returns=buckets)
    reduce_task = ray.remote(_reduce)
    sliced = [_listed(split_task.remote(split, block, buckets), buckets) for block in blocks]
    return [reduce_task.remote(reduce, b, *(slices[b] for slices in sliced)) for b in range(buckets)]


def hash_partition(rows: pl.DataFrame, hashes: pl.Expr, buckets: int) -> list[pa.Table]:
    """Split rows into B tables by their unsigned hashes modulo B; rows keep their order."""
    home = rows.select(hashes % buckets).to_series()
    return [rows.filter(home == bucket).to_arrow() for bucket in range(buckets)]


def stacked(slices: Sequence[pa.Table]) -> pl.DataFrame:
    """Stack the slices of a bucket; the new column `block` is the index of each row's slice."""
    return pl.concat(
        [pl.DataFrame(pl.from_arrow(s)).with_columns(block=pl.lit(i, dtype=pl.Int32)) for i, s in enumerate(slices)]
    )


def by_block(answers: pl.DataFrame, blocks: int) -> list[pa.Table]:
    """Split answers by their column `block`, which is dropped; rows keep their order."""
    parts = answers.partition_by("block", as_dict=True, include_key=False)
    empty = answers.clear().drop("block")
    return [parts.get((i,), empty).to_arrow() for i in range(blocks)]


def shuffle_in_process(blocks: Sequence[Any], split: Partition, reduce: Reduce, buckets: int) -> list[Any]:
    """Run the shuffle without Ray: for few rows, and as the tests' oracle."""
    sliced = [split(block, buckets) for block in blocks]
    return [reduce(b, [slices[b] for slices in sliced]) for b in range(buckets)]


def _split(split: Partition, block: Any, buckets: int) -> Any:
    pieces = split(block, buckets)
    return pieces[0] if buckets == 1 else tuple(pieces)


def _answer(answer: Answer, *slices: pa.Table) -> Any:
    answers = answer(list(slices))
    return answers[0] if len(slices) == 1 else tuple(answers)


def _reduce(reduce: Reduce, bucket: int, *slices: Any) -> Any:
    return reduce(bucket, list(slices))


def _listed(returned: Any, count: int) -> list[Any]:
    # For one return value Ray returns a bare reference, not a list.
    return [returned] if count == 1 else list(returned)
