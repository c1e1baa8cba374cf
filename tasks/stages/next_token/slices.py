"""Perplexity by slice: each held-out token belongs to a review, and each review to a slice of each kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from tasks.core.part_files import read_part
from tasks.core.snapshots import read_tables

SHORT_CHARS = 200  # as evaluate.short_chars
CATEGORIES = 20  # as evaluate.categories
SLICES = pa.schema(
    [
        pa.field("slice", pa.string(), nullable=False),
        pa.field("value", pa.string(), nullable=False),
        pa.field("reviews", pa.int64(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("perplexity", pa.float64(), nullable=False),  # exp of the mean loss of its tokens
        pa.field("of_frequencies", pa.float64(), nullable=False),  # the same, by how often tokens occur alone
    ]
)
Array = NDArray[Any]


def measured(reviews: Sequence[Path], tokens: Sequence[Path], tests: Sequence[Path]) -> pa.Table:
    """Return a table of SLICES, all tokens first. tests: files of the ranks' test losses, by place in the stream."""
    lengths = read_tables(tokens, ["n_tokens"])["n_tokens"].to_numpy().astype(np.int64)
    ends = np.cumsum(lengths + 1)  # an end-of-text belongs to the review before it
    held = [np.load(file, allow_pickle=False) for file in tests]
    position, nats, frequency = (np.concatenate([h[name] for h in held]) for name in ("position", "nats", "frequency"))
    of = np.searchsorted(ends, position, side="right")
    sums = pl.DataFrame({"review": of, "nats": nats, "frequency": frequency}).group_by("review").agg(
        pl.len().alias("tokens"), pl.col("nats", "frequency").cast(pl.Float64).sum()
    )  # fmt: skip
    known = pl.concat([read_part(file, ["rating", "category", "text"]) for file in reviews]).with_row_index("review")
    rows = sums.sort("review").join(sliced(known), on="review", how="left", maintain_order="left")
    tables = [
        rows.group_by(pl.lit(kind).alias("slice"), pl.col(kind).alias("value")).agg(
            reviews=pl.len().cast(pl.Int64),
            tokens=pl.col("tokens").sum().cast(pl.Int64),
            perplexity=(pl.col("nats").sum() / pl.col("tokens").sum()).exp(),
            of_frequencies=(pl.col("frequency").sum() / pl.col("tokens").sum()).exp(),
        ).sort("value")
        for kind in ("all", "stars", "length", "category")
    ]  # fmt: skip
    return pl.concat(tables).to_arrow().cast(SLICES)


def sliced(known: pl.DataFrame) -> pl.DataFrame:
    """Return each review's value of each kind of slice."""
    largest = (
        known["category"].drop_nulls().value_counts().sort("count", "category", descending=[True, False])["category"]
    )
    category = pl.col("category")
    return known.select(
        pl.col("review").cast(pl.Int64),
        pl.lit("all").alias("all"),
        pl.col("rating").round().cast(pl.Int64).cast(pl.String).alias("stars"),
        pl.when(pl.col("text").str.len_chars() < SHORT_CHARS)
        .then(pl.lit("short"))
        .otherwise(pl.lit("long"))
        .alias("length"),
        pl.when(category.is_in(largest.head(CATEGORIES).to_list()))
        .then(category)
        .otherwise(pl.lit("others"))
        .alias("category"),
    )
