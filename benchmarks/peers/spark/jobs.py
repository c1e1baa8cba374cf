"""The jobs of the parity check: each reads what our stage read, does the work in Spark, and compares with its output.

clean      the rows that stay, their texts, and their order, from raw reviews
describe   reviewers and ratings
words      word counts
products   products with imputed prices and the prices of also-viewed ones
features   past aggregates of users, items, categories and brands, and the join with the products
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers.spark import past, products, profiles, tidy, words
from benchmarks.peers.spark.compare import Compared, compare
from benchmarks.peers.spark.ours import Ours
from tasks.core.part_files import scan_parts
from tasks.core.snapshots import Snapshot

PLACE = ["file", "row"]
Job = Callable[[Any, Ours, Path], Iterator[Compared]]


def clean(spark: Any, ours: Ours, scratch: Path) -> Iterator[Compared]:
    """Of equally late reviews the one with the greatest hash stays: ingest's output, so Spark reads it from there."""
    from pyspark.sql import functions as F

    raw = tidy.read_numbered(spark, ours.raw.files())
    hashes = tidy.read_numbered(spark, ours.raw.files("keys")).select(*PLACE, "row_hash")
    keys = raw.select("review_id", "user_id", "item_id", F.unix_millis("timestamp").alias("ms"), *PLACE)
    gone = tidy.repeats(keys.join(hashes, PLACE), ["ms", "row_hash", *PLACE])
    tidied = tidy.tidy(tidy.without(raw, gone), ["title", "text"])
    theirs = through(tidied, scratch / "clean").sort(PLACE)
    yield compare("clean", read(ours.reviews), theirs, ["review_id"], ordered=True)


def describe(spark: Any, ours: Ours, scratch: Path) -> Iterator[Compared]:
    reviews = spark.read.parquet(*map(str, ours.reviews.files()))
    users, ratings = profiles.by_user(reviews), profiles.by_rating(reviews)
    yield compare("reviewers", read(ours.described), through(users, scratch / "users"), ["user_id"])
    theirs = through(ratings, scratch / "ratings")
    yield compare("ratings", read(ours.described, "ratings"), theirs, ["rating_bucket"])


def count_words(spark: Any, ours: Ours, scratch: Path) -> Iterator[Compared]:
    reviews = spark.read.parquet(*map(str, ours.reviews.files()))
    theirs = through(words.counted(reviews), scratch / "words")
    yield compare("words", read(ours.counts), theirs, ["token"])


def complete_products(spark: Any, ours: Ours, scratch: Path) -> Iterator[Compared]:
    if ours.catalogue is None or ours.items is None:
        return
    catalogue = tidy.read_numbered(spark, ours.catalogue.files())
    theirs = through(products.completed(catalogue), scratch / "products").sort(PLACE)
    yield compare("products", read(ours.items), theirs, ["item_id"], ordered=True)


def know_the_past(spark: Any, ours: Ours, scratch: Path) -> Iterator[Compared]:
    reviews = tidy.read_numbered(spark, ours.reviews.files())
    items = None if ours.items is None else spark.read.parquet(*map(str, ours.items.files()))
    groups = ours.table.facts["groups"]
    found = past.features(reviews, items, [name for names in groups.values() for name in names])
    theirs = through(found.join(reviews.select(*PLACE, "review_id"), PLACE), scratch / "features")
    mine = read(ours.table)
    for group, names in groups.items():
        yield compare(f"features: {group}", mine.select("review_id", *names), theirs, ["review_id"])


JOBS: dict[str, Job] = {
    "clean": clean,
    "describe": describe,
    "words": count_words,
    "products": complete_products,
    "features": know_the_past,
}


def read(snapshot: Snapshot, table: str = "") -> Any:
    """Read a table of a snapshot as a Polars frame, in row order."""
    return scan_parts(snapshot.files(table)).collect()


def through(table: Any, folder: Path) -> Any:
    """Compute a table in Spark and read it as a Polars frame: through parquet, as all of it need not fit into Java."""
    table.write.parquet(str(folder))
    return scan_parts(sorted(folder.glob("part-*.parquet"))).collect()
