"""Make one row per item of the catalogue, with imputed prices and the prices of its also-viewed items.

In: canonical items (`schemas.ITEMS`). Of rows with the same item_id the first stays.
Out: `COLUMNS`, one file per file of the catalogue, in the same row order.

`mean_price_also_viewed` and `count_also_viewed` equal `explode` and an inner join with the priced items: items that are
not in the catalogue or have no price do not count, a price of 0 does, an item listed twice counts twice, and one that
lists itself counts. The join is a keyed exchange: each file's (also-viewed id, row) pairs go to the bucket of the id's
hash, are joined with the prices there, and return as prices. The driver gets three numbers.

Nothing depends on the cut of the catalogue into files: a row's prices are added in ascending order, and one task
computes mean and median of all prices. At 8 bytes an item that is 80 MB for ten million; an exact median over several
machines would save that, but read the prices once for every step of a search.

    raymill run --items PATH --until items
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.core.part_files import read_part
from tasks.core.sections import Positive, Section
from tasks.core.snapshot_files import FileEntry, FileSink, part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.domain.schemas import ITEMS
from tasks.engines import cluster, frames
from tasks.parallel.exchange import by_block, hash_partition, keyed_exchange, stacked

SCALARS = [name for name in ITEMS.names if name != "also_viewed"]
UNKNOWN_TITLE = "unknown"
COLUMNS = pa.schema(
    [
        ITEMS.field("item_id"),
        pa.field("title", pa.string(), nullable=False),  # "unknown" where there is none
        *(ITEMS.field(name) for name in SCALARS[2:]),
        pa.field("price_mean_imputed", pa.float64()),  # null only where no item has a price
        pa.field("price_median_imputed", pa.float64()),
        pa.field("mean_price_also_viewed", pa.float64()),  # null where the count is 0
        pa.field("count_also_viewed", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True)
class KnownPrices:
    """Over all items that have a price: their number, the mean and the median (None where there is no price)."""

    count: int
    mean: float | None
    median: float | None


class ItemsConfig(Section):
    buckets: Positive


@stage(version=1, config=ItemsConfig, unit="items", libraries=("pyarrow", "polars", "numpy"))
def items(catalogue: Snapshot, config: ItemsConfig, out: SnapshotWriter) -> None:
    import ray

    files = catalogue.files()
    answers = keyed_exchange(files, split_file, answer_prices, config.buckets)
    own = ray.remote(read_prices)
    known = ray.remote(summarise).remote(*(own.remote(f, *a) for f, a in zip(files, answers, strict=True)))
    table = frames.from_map(read_scalars, files)
    given = (range(len(files)), [known] * len(files), *zip(*answers, strict=True))
    out.add(frames.collect(table, write_part, *given, sink=out.sink))
    # Counted where repeats are found, not from the remaining rows: the runner's check of the rows must be able to fail.
    count = ray.remote(count_repeated)
    out.count(rows_in=catalogue.rows(), repeated=sum(cluster.gather(count.remote(*a) for a in answers)))
    prices = cluster.gather([known])[0]
    out.fact(mean_price=prices.mean, median_price=prices.median, known_prices=prices.count)


def read_scalars(file: Path) -> pa.Table:
    """Read the columns that stay; the also-viewed lists, by far most of the bytes, are read by the split."""
    return read_part(file, SCALARS).to_arrow()


def split_file(file: Path, buckets: int) -> list[pa.Table]:
    wanted = ["item_id", "price", "also_viewed"]
    return split_items(read_part(file, wanted), buckets)


def split_items(catalogue: pl.DataFrame, buckets: int) -> list[pa.Table]:
    """Hash-partition two kinds of rows by key: each item with its price, and each also-viewed id of an item."""
    numbered = catalogue.with_row_index("row")
    own = numbered.select("row", "price", key="item_id", asks=pl.lit(False))
    asked = (
        numbered.select("row", key="also_viewed")
        .explode("key", empty_as_null=True)
        .drop_nulls("key")
        .select("row", "key", price=pl.lit(None, pl.Float64), asks=pl.lit(True))
    )
    return hash_partition(pl.concat([own, asked.select(own.columns)]), pl.col("key").hash(7), buckets)


def answer_prices(slices: list[pa.Table]) -> list[pa.Table]:
    """Return, for each block, (row, price) of its rows' priced also-viewed ids; a null price marks a repeated item.

    The first item of an id is the one in the earliest block, there in the earliest row.
    """
    rows = stacked(slices)
    own = rows.filter(~pl.col("asks"))  # in order: blocks one after another, each in row order
    first = pl.col("key").is_first_distinct()
    priced = own.filter(first).drop_nulls("price").select("key", found="price")
    found = rows.filter("asks").join(priced, on="key").select("block", "row", price="found")
    repeated = own.filter(~first).select("block", "row", price=pl.lit(None, pl.Float64))
    return by_block(pl.concat([found, repeated]), len(slices))


def read_prices(file: Path, *answers: pa.Table) -> np.ndarray:
    return own_prices(read_part(file, ["price"])["price"], *answers)


def own_prices(prices: pl.Series, *answers: pa.Table) -> np.ndarray:
    """Return the prices of a file's items, without nulls and repeated items: float64, in row order."""
    return prices.filter(pl.Series(kept_rows(len(prices), answers))).drop_nulls().to_numpy()


def summarise(*prices: np.ndarray) -> KnownPrices:
    """Compute the mean, correctly rounded, and the exact median of all prices."""
    together = np.concatenate(prices) if prices else np.empty(0)
    if not len(together):
        return KnownPrices(0, None, None)
    return KnownPrices(len(together), math.fsum(together) / len(together), float(np.median(together)))


def write_part(
    catalogue: pa.Table, index: int, known: KnownPrices, *answers: pa.Table, sink: FileSink
) -> FileEntry | None:
    table = complete_items(catalogue, known, *answers)
    return sink.write_table(part_name(index), table, COLUMNS) if table.num_rows else None


def complete_items(catalogue: pa.Table, known: KnownPrices, *answers: pa.Table) -> pa.Table:
    """Return the kept items of a file with all of `COLUMNS`."""
    rows, prices = found_prices(answers)
    count = np.bincount(rows, minlength=catalogue.num_rows)
    # bincount adds values in order, here ascending: no sum depends on where a price came from.
    total = np.bincount(rows, weights=prices, minlength=catalogue.num_rows)
    mean = np.divide(total, count, out=np.full(catalogue.num_rows, np.nan), where=count > 0)
    title, price = pl.col("title"), pl.col("price")
    completed = (
        pl.DataFrame(pl.from_arrow(catalogue))
        .with_columns(
            title=pl.when(title.str.strip_chars() != "").then(title).otherwise(pl.lit(UNKNOWN_TITLE)),
            price_mean_imputed=price.fill_null(pl.lit(known.mean, pl.Float64)),
            price_median_imputed=price.fill_null(pl.lit(known.median, pl.Float64)),
            mean_price_also_viewed=pl.Series(mean).fill_nan(None),
            count_also_viewed=pl.Series(count),
        )
        .filter(pl.Series(kept_rows(catalogue.num_rows, answers)))
    )
    return completed.select(COLUMNS.names).to_arrow().cast(COLUMNS)


def found_prices(answers: Sequence[pa.Table]) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and prices of all answers with a price, by row, then by price."""
    found = pl.concat([pl.DataFrame(pl.from_arrow(a)) for a in answers]).drop_nulls("price").sort("row", "price")
    return found["row"].to_numpy(), found["price"].to_numpy()


def kept_rows(rows: int, answers: Sequence[Any]) -> np.ndarray:
    """Mark the rows of a file that stay: False for those that repeat an earlier item."""
    keep = np.ones(rows, dtype=bool)
    for answer in answers:
        keep[answer["row"].filter(answer["price"].is_null()).to_numpy()] = False
    return keep


def count_repeated(*answers: pa.Table) -> int:
    return sum(answer["price"].null_count for answer in answers)
