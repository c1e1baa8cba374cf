"""Canonical reviews in, normalised and unique ones out, on Modin over Ray.

Title and text: NFC, entities decoded, HTML tags and URLs removed, control characters and runs of white space
made one space, ends stripped. Cleaning is idempotent: cleaning clean text changes nothing. Then repeated reviews go:
a row is repeated if an earlier row has its review_id, or has the same user, item, rating, time, title and text.
Rows keep their order. rows in = rows out + repeated.

    raymill run --until clean
"""

from __future__ import annotations

import html
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.core.schemas import REVIEWS
from tasks.core.settings import CleanConfig
from tasks.core.snapshots import FileEntry, FileSink, Snapshot, SnapshotWriter, part_name
from tasks.core.stage import stage
from tasks.engines import cluster, frames
from tasks.parallel.exchange import keyed_exchange

TAG = r"<[a-zA-Z/!][^>]*>"
URL = r"(?i:https?://|www\.)[^\s<]+"
BLANKS = r"[\s\p{Cc}]+"
SAID = ("user_id", "item_id", "rating", "timestamp", "title", "text")
BUCKETS = 4


@stage(version=1, libraries=("pyarrow", "polars"))
def clean(raw: Snapshot, config: CleanConfig, out: SnapshotWriter) -> None:
    import ray

    reviews = frames.from_map(tidy, raw.files(), config=config)
    repeated = keyed_exchange(frames.partitions(reviews), split_keys, find_repeats, BUCKETS)
    kept = frames.map_partitions(reviews, drop_rows, *zip(*repeated, strict=True))
    out.add(frames.write(kept, out.sink, write_part))
    # Counted where they were found, not by what is left: the runner's check of the rows must be able to fail.
    count = ray.remote(count_rows)
    out.count(rows_in=raw.rows(), repeated=sum(cluster.gather(count.remote(*rows) for rows in repeated)))


def tidy(file: Path, config: CleanConfig) -> pa.Table:
    """One file of raw reviews with title and text normalised."""
    reviews = pl.read_parquet(file, hive_partitioning=False)
    tidied = {c: tidy_text(reviews[c], config) for c in ("title", "text")}
    return reviews.with_columns(**tidied).to_arrow().cast(REVIEWS)


def tidy_text(texts: pl.Series, config: CleanConfig) -> pl.Series:
    """Normalise a column of texts, in as few passes over it as keep it idempotent."""
    texts = texts.str.normalize("NFC")
    if config.decode_entities:
        # Only a fifth of real reviews hold an entity; the others never become Python strings.
        coded = texts.str.contains("&", literal=True)
        texts = texts.scatter(coded.arg_true(), decode_entities(texts.filter(coded))) if coded.any() else texts
    patterns = [TAG] * config.remove_html + [URL] * config.remove_urls + [BLANKS]
    return texts.str.replace_all("|".join(patterns), " ").str.replace_all(" {2,}", " ").str.strip_chars()


def decode_entities(texts: pl.Series) -> pl.Series:
    """Decode HTML entities until none is left: "&amp;lt;" is "<". Decoding and NFC can each enable the other."""
    while True:
        unescaped = pl.Series(texts.name, [html.unescape(t) for t in texts], dtype=pl.String)
        # Polars' Unicode tables, not Python's: two versions of NFC in turn would not be idempotent.
        decoded = unescaped.str.normalize("NFC")
        if decoded.equals(texts):
            return decoded
        texts = decoded


def split_keys(reviews: object, buckets: int) -> list[pa.Table]:
    """Row numbers and 128-bit hashes of a block's two keys, hash-partitioned by key.

    With 10 million rows two different keys share 128 bits with a probability of about 1e-25.
    """
    frame = pl.DataFrame(pl.from_arrow(frames.to_arrow(reviews)))  # type: ignore[arg-type]
    row = np.arange(len(frame), dtype=np.int64)
    keys = [
        pl.DataFrame({"a": _hash(frame.select(columns), 1), "b": _hash(frame.select(columns), 2), "row": row})
        for columns in (("review_id",), SAID)
    ]
    # The kind of key is folded into it, so that an id never meets a text.
    both = pl.concat([k.with_columns(pl.col("b") ^ kind) for kind, k in enumerate(keys)])
    return [p.to_arrow() for p in (both.filter(pl.col("a") % buckets == i) for i in range(buckets))]


def _hash(columns: pl.DataFrame, seed: int) -> pl.Series:
    return columns.hash_rows(seed)


def find_repeats(slices: list[pa.Table]) -> list[pa.Table]:
    """For each block, the rows whose key an earlier row already has (earlier: block order, then row order)."""
    seen = pl.concat(
        [pl.DataFrame(pl.from_arrow(s)).with_columns(block=pl.lit(i, dtype=pl.Int32)) for i, s in enumerate(slices)]
    )
    repeats = (
        seen.sort("block", "row").filter(~pl.struct("a", "b").is_first_distinct()).partition_by("block", as_dict=True)
    )
    nothing = pl.DataFrame(schema={"row": pl.Int64})
    return [repeats.get((i,), nothing).select("row").to_arrow() for i in range(len(slices))]


def count_rows(*repeated: pa.Table) -> int:
    """How many rows of a block are repeated; one that both its keys give away counts once."""
    return len(np.unique(np.concatenate([rows["row"].to_numpy() for rows in repeated])))


def drop_rows(reviews: pa.Table, *repeated: pa.Table) -> pa.Table:
    keep = np.ones(reviews.num_rows, dtype=bool)
    for rows in repeated:
        keep[rows["row"].to_numpy()] = False
    return reviews.filter(pa.array(keep))


def write_part(sink: FileSink, index: int, reviews: pa.Table) -> list[FileEntry]:
    return [sink.write_table(part_name(index), reviews, REVIEWS)] if reviews.num_rows else []
