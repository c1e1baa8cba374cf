"""Clean reviews in, word counts out: an actor MapReduce.

A word is a run of letters, digits and underscores, with inner apostrophes ("don't"), lower-cased; titles count with
texts. Out: one file per reducer partition with `token`, `count`, `documents` (reviews that hold the word) and
`first_seen` (the time of the earliest of them), sorted by token within the file. A token alone decides its file.

    raymill run --until count-words
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from zlib import crc32

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.core.schemas import WORD_COUNTS
from tasks.core.settings import CountWordsConfig
from tasks.core.snapshots import FileEntry, FileSink, Snapshot, SnapshotWriter, part_name
from tasks.core.stage import stage
from tasks.parallel import mapreduce

WORD = r"\w+(?:['’]\w+)*"


@stage(version=1, libraries=("pyarrow", "polars"))
def count_words(reviews: Snapshot, config: CountWordsConfig, out: SnapshotWriter) -> None:
    job = mapreduce.Job(map=count_file, combine=add_counts, partition=by_token, finish=partial(write_part, out.sink))
    written = mapreduce.run(job, reviews.files(), partitions=config.reducers, mappers=2, reducers=2)
    out.add(entry for entry, _ in written)
    out.count(documents=reviews.rows(), tokens=out.rows(), words=sum(words for _, words in written))


def count_file(file: Path) -> pa.Table:
    """Words of one file of reviews, counted: WORD_COUNTS columns, one row a word."""
    reviews = pl.read_parquet(file, columns=["title", "text", "timestamp"], hive_partitioning=False)
    said = (reviews["title"] + "\n" + reviews["text"]).rename("said")
    words = pl.DataFrame({"token": words_of(said), "row": np.arange(len(said), dtype=np.int32)})
    words = words.with_columns(first_seen=reviews["timestamp"]).explode("token").drop_nulls("token")
    per_review = words.group_by("row", "token").agg(pl.len().alias("count"), pl.col("first_seen").first())
    counted = per_review.group_by("token").agg(
        pl.col("count").sum().cast(pl.Int64), documents=pl.len().cast(pl.Int64), first_seen=pl.col("first_seen").min()
    )
    return counted.to_arrow().cast(WORD_COUNTS)


def words_of(texts: pl.Series) -> pl.Series:
    """Each text's words in order, lower-cased: a list column."""
    return texts.str.to_lowercase().str.extract_all(WORD)


def add_counts(records: pa.Table) -> pa.Table:
    merged = (
        pl.DataFrame(pl.from_arrow(records))
        .group_by("token")
        .agg(pl.col("count", "documents").sum(), pl.col("first_seen").min())
    )
    return merged.to_arrow().cast(WORD_COUNTS)


def by_token(records: pa.Table, partitions: int) -> list[pa.Table]:
    """Split by CRC-32 of the token's UTF-8 bytes: the same in every process and version."""
    home = (
        np.fromiter((crc32(t.encode()) for t in records["token"].to_pylist()), np.uint32, records.num_rows) % partitions
    )
    return [records.filter(pa.array(home == p)) for p in range(partitions)]


def write_part(sink: FileSink, partition: int, records: pa.Table) -> tuple[FileEntry, int]:
    counted = records.sort_by("token")
    return sink.write_table(part_name(partition), counted, WORD_COUNTS), sum(counted["count"].to_pylist())
