"""What was known before each review, in Spark: window functions over the earlier reviews of a key, and joins.

Our stage `features` shuffles sums by key and time; here every number is its definition: an aggregate over the frame of
rows whose time is less than the row's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

DAY_MS = 86_400_000
NUMBERED = ("file", "row")


def known_before(reviews: Any, kind: str, key: str) -> Any:
    """Return, for each review, what its user, item, category or brand had received strictly before its own time.

    reviews: NUMBERED, `key`, timestamp, rating, helpful_votes, total_votes. Returns NUMBERED and float columns
    `KIND_count`, `_mean`, `_std`, `_ones`, `_fives`, `_last`, `_days_since_first`, `_days_since_last`, `_helpful`,
    `_votes`: null without an earlier review, and where the key is null.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    stars, ms = F.col("rating").cast("double"), F.unix_millis("timestamp")
    rows = reviews.filter(F.col(key).isNotNull()).select(
        *NUMBERED, F.col(key).alias("key"), ms.alias("ms"), stars.alias("stars"), "helpful_votes", "total_votes"
    )
    earlier = Window.partitionBy("key").orderBy("ms").rangeBetween(Window.unboundedPreceding, -1)
    voted = (F.col("total_votes") > 0) & F.col("helpful_votes").isNotNull()
    helpful = F.sum(F.when(voted, F.col("helpful_votes"))).over(earlier)
    votes = F.sum(F.when(voted, F.col("total_votes"))).over(earlier)
    n = F.count(F.lit(1)).over(earlier)
    known = rows.select(
        *NUMBERED,
        "key",
        F.max("ms").over(earlier).alias("last_ms"),
        n.alias("count"),
        F.avg("stars").over(earlier).alias("mean"),
        F.stddev_pop("stars").over(earlier).alias("std"),
        F.avg((F.col("stars") < 1.5).cast("int")).over(earlier).alias("ones"),
        F.avg((F.col("stars") >= 4.5).cast("int")).over(earlier).alias("fives"),
        ((F.col("ms") - F.min("ms").over(earlier)) / DAY_MS).alias("days_since_first"),
        ((F.col("ms") - F.max("ms").over(earlier)) / DAY_MS).alias("days_since_last"),
        F.when(votes > 0, helpful / votes).alias("helpful"),
        F.when(n > 0, F.coalesce(votes, F.lit(0)) / n).alias("votes"),
    )
    moments = rows.groupBy("key", F.col("ms").alias("last_ms")).agg(F.avg("stars").alias("last"))
    known = known.join(moments, ["key", "last_ms"], "left").drop("key", "last_ms")
    names = [name for name in known.columns if name not in NUMBERED]
    return known.select(*NUMBERED, *(F.col(name).cast("float").alias(f"{kind}_{name}") for name in names))


def features(reviews: Any, items: Any | None, kept: Sequence[str]) -> Any:
    """Return NUMBERED and the columns `kept` of the groups user, item, helpful and catalogue, a row for each review.

    items: the rows of our stage `items`; None without product metadata.
    """
    from pyspark.sql import functions as F

    wanted = reviews.select(
        *NUMBERED, "user_id", "item_id", "category", "timestamp", "rating", "helpful_votes", "total_votes"
    )
    kinds = {"user": "user_id", "item": "item_id", "category": "category"}
    if items is not None:
        kinds["brand"] = "brand"
        metadata = items.select(
            "item_id",
            "brand",
            F.col("category").alias("item_category"),
            F.col("price").cast("float").alias("price"),
            F.col("sales_rank").cast("float").alias("sales_rank"),
            F.col("mean_price_also_viewed").cast("float").alias("also_viewed_price"),
            F.col("count_also_viewed").cast("float").alias("also_viewed_count"),
        )
        wanted = wanted.join(metadata, "item_id", "left")
        wanted = wanted.withColumn("category", F.coalesce("category", "item_category"))
    table = wanted
    for kind, key in kinds.items():
        table = table.join(known_before(wanted, kind, key), list(NUMBERED), "left")
    logarithms = {
        f"{kind}_count": F.log1p(f"{kind}_count").cast("float") for kind in kinds if kind in ("category", "brand")
    }
    return table.withColumns(logarithms).select(*NUMBERED, *kept)
