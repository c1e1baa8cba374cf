"""Aggregates over the earlier reviews of a user, an item, a category or a brand, known before a review's own time.

Reviews of the same time (often the same day) do not see each other. Each file sends one row per key and time, not per
review, to the bucket of the key: for a category with a million reviews only a few thousand days are sent. The bucket
adds them up in order of time, shifted by one, and sends each file the answers for its own keys and times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from tasks.core.part_files import read_part
from tasks.parallel.exchange import by_block, hash_partition, keyed_exchange, stacked
from tasks.stages.features.columns import Columns, as_series

DAY_MS = 86_400_000
SUMS = ("n", "total", "squares", "ones", "fives", "helpful", "votes")
READ = ("timestamp", "rating", "helpful_votes", "total_votes")
# The columns of the answers: aggregates of the key's earlier reviews, null without any.
KNOWN = {
    "count": "earlier reviews",
    "mean": "mean of their stars",
    "std": "standard deviation of their stars",
    "ones": "share of them with one star",
    "fives": "share of them with five stars",
    "last": "mean of their stars at the latest moment",
    "days_since_first": "days since the earliest of them",
    "days_since_last": "days since the latest of them",
    "helpful": "share of the votes on them that are helpful",
    "votes": "votes on each of them, on average",
}
VOTES = ("helpful", "votes")
PAST = tuple(name for name in KNOWN if name not in VOTES)
Block: TypeAlias = Path | pa.Table  # reviews: a file of them, or their columns READ and keys


def known_before(blocks: Sequence[Any], key: str, buckets: int) -> list[list[Any]]:
    """Return, for each block of reviews (or reference to one), references to `buckets` tables of past aggregates.

    `in_row_order` turns them into columns.
    """
    return keyed_exchange(blocks, partial(split_by_key, key=key), answer_past, buckets)


def split_by_key(block: Block, buckets: int, key: str) -> list[pa.Table]:
    """Sum a block's reviews by key and time (`key`, `ms`, SUMS), hash-partitioned by key."""
    known = pl.col("total_votes") > 0
    moments = (
        moment_keys(block, key)
        .drop_nulls("key")
        .group_by("key", "ms")
        .agg(
            n=pl.len().cast(pl.Int64),
            total=pl.col("rating").sum(),
            squares=(pl.col("rating") ** 2).sum(),
            ones=(pl.col("rating") < 1.5).sum().cast(pl.Int64),
            fives=(pl.col("rating") >= 4.5).sum().cast(pl.Int64),
            helpful=pl.col("helpful_votes").filter(known).cast(pl.Int64).sum(),
            votes=pl.col("total_votes").filter(known & pl.col("helpful_votes").is_not_null()).cast(pl.Int64).sum(),
        )
    )
    return hash_partition(moments, pl.col("key").hash(7), buckets)


def moment_keys(block: Block, key: str) -> pl.DataFrame:
    """Return `key`, `ms` and the columns to sum, for each review in order."""
    if isinstance(block, pa.Table):
        reviews = pl.DataFrame(pl.from_arrow(block.select([key, *READ])))
    else:
        reviews = read_part(block, [key, *READ])
    return reviews.select(
        pl.col(key).alias("key"),
        pl.col("timestamp").dt.epoch("ms").alias("ms"),
        pl.col("rating").cast(pl.Float64),
        "helpful_votes",
        "total_votes",
    )


def cumulative(sums: pl.DataFrame) -> pl.DataFrame:
    """Add up sums by `key` and `ms` in order of time: the SUMS up to each time and with it, and `first_ms`, the key's
    earliest time; `last`: the mean of the stars at this time alone. Sorted by key and time."""
    return (
        sums.group_by("key", "ms")
        .agg(pl.col(SUMS).sum())
        .sort("key", "ms")
        .with_columns(
            pl.col(SUMS).cum_sum().over("key"),
            last=pl.col("total") / pl.col("n"),
            first_ms=pl.col("ms").first().over("key"),
        )
    )


def known_from(before: Mapping[str, NDArray[np.float64]], ms: NDArray[np.int64]) -> Columns:
    """Return the columns KNOWN at the times `ms` (n,), from what `cumulative` gave for the key's time before each.

    `last_ms` is that time, in ms; the arrays (n,) are NaN where there is none. Times and counts are below 2^53: float64
    holds them exactly.
    """
    n, total = before["n"], before["total"]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / n
        since_first = np.where(n > 0, (ms - before["first_ms"]) / DAY_MS, np.nan)
        known = {
            "count": np.where(np.isnan(n), 0, n),
            "mean": mean,
            "std": np.sqrt(np.maximum(before["squares"] / n - mean * mean, 0)),
            "ones": before["ones"] / n,
            "fives": before["fives"] / n,
            "last": before["last"],
            "days_since_first": since_first,
            "days_since_last": (ms - before["last_ms"]) / DAY_MS,
            "helpful": before["helpful"] / np.where(before["votes"] > 0, before["votes"], np.nan),
            "votes": before["votes"] / n,
        }
    return {name: known[name].astype(np.float32) for name in KNOWN}


def answer_past(slices: list[pa.Table]) -> list[pa.Table]:
    """Return the columns KNOWN for each block's keys and times."""
    sums = stacked(slices)
    # Shifted by one: each time sees the earlier ones, never itself.
    before = cumulative(sums).with_columns(
        pl.col(*SUMS, "last").shift(1).over("key"), last_ms=pl.col("ms").shift(1).over("key")
    )
    sums_before = {name: before[name].cast(pl.Float64).to_numpy() for name in (*SUMS, "last", "last_ms", "first_ms")}
    answers = before.select("key", "ms").with_columns(**as_series(known_from(sums_before, before["ms"].to_numpy())))
    return by_block(sums.select("block", "key", "ms").join(answers, on=["key", "ms"], how="left"), len(slices))


def in_row_order(block: Block, key: str, answers: Sequence[pa.Table], names: Sequence[str]) -> dict[str, pl.Series]:
    """Return the columns `names` of KNOWN for each review of the block; null where the key is null."""
    together = pl.concat([pl.DataFrame(pl.from_arrow(a)).select("key", "ms", *names) for a in answers])
    rows = moment_keys(block, key).select("key", "ms")
    return rows.join(together, on=["key", "ms"], how="left", maintain_order="left").select(names).to_dict()
