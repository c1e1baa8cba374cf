"""The peer `spark` of the bench case `etl`: clean raw reviews and aggregate them by reviewer, as Spark jobs.

The repeats are found on the keys alone and removed by a broadcast join, so that no text is shuffled; each text step is
done only where it may be needed. In: the columns of `benchmarks.peers.etl`; out: its two tables, as folders of parts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers.etl import EARLIEST, NO, SOURCES, TEXTS, YES, day_after_tomorrow
from benchmarks.peers.spark.profiles import by_user
from benchmarks.peers.spark.tidy import read_numbered, repeats, tidy, without

SPACES = " \t\n\x0b\x0c\r"
NARROW = ("review_id", "user_id", "item_id", "rating", "timestamp", "helpful_votes", "total_votes", "file", "row")


def etl(spark: Any, input: Path, out: Path) -> None:
    raw = canonical(read_numbered(spark, sorted(input.glob("*.parquet"))))
    keys = raw.select(*NARROW).filter(usable()).cache()  # read by three jobs
    gone = repeats(keys, ["timestamp"]).cache()
    reviews = without(raw.filter(usable()), gone).drop("file", "row")
    tidy(reviews, TEXTS).write.mode("overwrite").parquet(str(out / "reviews.parquet"))
    by_user(without(keys, gone)).write.mode("overwrite").parquet(str(out / "reviewers.parquet"))
    for table in (gone, keys):
        table.unpersist()


def canonical(raw: Any) -> Any:
    """Map the source's columns to those of canonical reviews; `file` and `row` stay."""
    from pyspark.sql import functions as F

    columns = {name: F.col(source) for name, source in SOURCES.items()}
    columns |= {c: F.btrim(columns[c], F.lit(SPACES)) for c in ("review_id", "user_id", "item_id", "category")}
    columns |= {c: F.coalesce(columns[c], F.lit("")) for c in TEXTS}
    columns |= {c: columns[c].cast("int") for c in ("helpful_votes", "total_votes")}
    flag = F.lower(F.btrim(columns["verified"], F.lit(SPACES)))
    columns["verified"] = F.when(flag.isin(YES), True).when(flag.isin(NO), False)
    columns["rating"] = columns["rating"].cast("float")
    columns["timestamp"] = columns["timestamp"].cast("timestamp")
    return raw.select(*(column.alias(name) for name, column in columns.items()), "file", "row")


def usable() -> Any:
    from pyspark.sql import functions as F

    named = (F.col("user_id") != "") & (F.col("item_id") != "")
    timely = (F.col("timestamp") >= F.lit(EARLIEST)) & (F.col("timestamp") < F.lit(day_after_tomorrow()))
    return named & F.col("rating").between(1, 5) & timely
