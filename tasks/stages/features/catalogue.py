"""Join each review with its item's metadata from the catalogue, by keyed exchange.

Review files and item files are blocks of one exchange: each sends its rows to the bucket of the item's hash, and the
bucket answers the review files. Each file is read whole by one task only, however big the catalogue is.

Prices and ranks are from the day when the catalogue was collected, the same for all reviews of an item: they reveal
nothing about single reviews, but were not known on a review's own day.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from tasks.core.part_files import read_part
from tasks.parallel.exchange import hash_partition, keyed_exchange
from tasks.stages.features.past_aggregates import READ

# Columns of the stage `items`, by their names as features.
METADATA = {
    "price": "price",
    "sales_rank": "sales_rank",
    "also_viewed_price": "mean_price_also_viewed",
    "also_viewed_count": "count_also_viewed",
}
KEYS = ("category", "brand")
Block = tuple[str, Path]  # "reviews" or "items", and a file of them


def with_items(reviews: Sequence[Path], items: Sequence[Path], buckets: int) -> list[Any]:
    """Return, for each file of reviews, a reference to the columns READ, KEYS and METADATA of its rows.

    The category is the review's own, else the item's. Values missing from the catalogue are null.
    """
    import ray

    blocks = [*(("reviews", f) for f in reviews), *(("items", f) for f in items)]
    answers = keyed_exchange(blocks, split_by_item, partial(answer_items, reviews=len(reviews)), buckets)
    attach = ray.remote(attached)
    return [attach.remote(file, *tables) for file, tables in zip(reviews, answers[: len(reviews)], strict=True)]


def split_by_item(block: Block, buckets: int) -> list[pa.Table]:
    """Partition reviews (`row`, `item_id`) or items (`item_id` and their columns) by the item's hash."""
    kind, file = block
    if kind == "reviews":
        rows = read_part(file, ["item_id"]).with_row_index("row")
    else:
        columns = ["item_id", *KEYS, *METADATA.values()]
        rows = read_part(file, columns)
        rows = rows.rename({column: name for name, column in METADATA.items()})
    return hash_partition(rows, pl.col("item_id").hash(7), buckets)


def answer_items(slices: list[pa.Table], reviews: int) -> list[pa.Table]:
    """Return `row` and its item's columns for each block of reviews, which come first; empty tables for the others."""
    frames = [pl.DataFrame(pl.from_arrow(s)) for s in slices]
    items = pl.concat(frames[reviews:])
    joined = [frame.join(items, on="item_id", how="inner").drop("item_id").to_arrow() for frame in frames[:reviews]]
    return [*joined, *(pa.table({}) for _ in frames[reviews:])]


def attached(file: Path, *answers: pa.Table) -> pa.Table:
    """Return the file's reviews, in order, with the columns of their items."""
    items = pl.concat([pl.DataFrame(pl.from_arrow(a)) for a in answers]).rename({"category": "item_category"})
    rows = read_part(file, [*READ, "category"]).with_row_index("row")
    rows = rows.join(items, on="row", how="left", maintain_order="left")
    category = pl.coalesce("category", "item_category")
    return rows.with_columns(category).select(*READ, *KEYS, *METADATA).to_arrow()
