"""What the catalogue says of the item of each review: a keyed exchange of reviews and items.

Review files and item files are blocks of the same exchange: each sends its rows to the bucket of the item's hash, and
the bucket sends what it knows back to the review files. No file is read whole by more than one task, however big the
catalogue is.

Prices and ranks are those of the day when the catalogue was collected, the same for all reviews of an item: they tell
nothing of single reviews, but a price of that day was not known on the review's.
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

# Columns of the stage items, by the names that they have as features.
METADATA = {
    "price": "price",
    "sales_rank": "sales_rank",
    "also_viewed_price": "mean_price_also_viewed",
    "also_viewed_count": "count_also_viewed",
}
KEYS = ("category", "brand")
Block = tuple[str, Path]  # "reviews" or "items", and a file of them


def with_items(reviews: Sequence[Path], items: Sequence[Path], buckets: int) -> list[Any]:
    """For each file of reviews a reference to its rows' columns READ, KEYS and METADATA.

    The category is the review's own, the item's where it has none. What is not in the catalogue is null.
    """
    import ray

    blocks = [*(("reviews", f) for f in reviews), *(("items", f) for f in items)]
    answers = keyed_exchange(blocks, split_by_item, partial(answer_items, reviews=len(reviews)), buckets)
    attach = ray.remote(attached)
    return [attach.remote(file, *found) for file, found in zip(reviews, answers[: len(reviews)], strict=True)]


def split_by_item(block: Block, buckets: int) -> list[pa.Table]:
    """The rows of reviews (`row`, `item_id`) or items (`item_id` and their columns), hash-partitioned by item."""
    kind, file = block
    if kind == "reviews":
        rows = read_part(file, ["item_id"]).with_row_index("row")
    else:
        columns = ["item_id", *KEYS, *METADATA.values()]
        rows = read_part(file, columns)
        rows = rows.rename({column: name for name, column in METADATA.items()})
    return hash_partition(rows, pl.col("item_id").hash(7), buckets)


def answer_items(slices: list[pa.Table], reviews: int) -> list[pa.Table]:
    """For the review blocks, which come first, `row` and what is known of its item; for the others an empty table."""
    frames = [pl.DataFrame(pl.from_arrow(s)) for s in slices]
    items = pl.concat(frames[reviews:])
    found = [frame.join(items, on="item_id", how="inner").drop("item_id").to_arrow() for frame in frames[:reviews]]
    return [*found, *(pa.table({}) for _ in frames[reviews:])]


def attached(file: Path, *answers: pa.Table) -> pa.Table:
    """The file's reviews, row by row, with what was found of their items."""
    found = pl.concat([pl.DataFrame(pl.from_arrow(a)) for a in answers]).rename({"category": "item_category"})
    rows = read_part(file, [*READ, "category"]).with_row_index("row")
    rows = rows.join(found, on="row", how="left", maintain_order="left")
    category = pl.coalesce("category", "item_category")
    return rows.with_columns(category).select(*READ, *KEYS, *METADATA).to_arrow()
