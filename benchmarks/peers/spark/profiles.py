"""Describe clean reviews in Spark, a row per reviewer and a row per rating: the tables of our stage `describe`."""

from __future__ import annotations

from typing import Any


def by_user(reviews: Any) -> Any:
    """Return a row per reviewer. Missing votes count as 0."""
    from pyspark.sql import functions as F

    year = F.year("timestamp")
    return reviews.groupBy("user_id").agg(
        F.count("*").alias("reviews"),
        F.countDistinct("item_id").alias("items"),
        F.avg(F.col("rating").cast("double")).alias("mean_rating"),
        F.min(year).alias("first_year"),
        F.max(year).alias("latest_year"),
        *(F.coalesce(F.sum(votes), F.lit(0)).alias(votes) for votes in ("helpful_votes", "total_votes")),
    )


def by_rating(reviews: Any) -> Any:
    """Return a row per rating, rounded half up. reviews: user_id, rating, helpful_votes, timestamp."""
    from pyspark.sql import functions as F

    bucket = F.floor(F.col("rating").cast("double") + F.lit(0.5)).cast("byte")
    return reviews.groupBy(bucket.alias("rating_bucket")).agg(
        F.count("*").alias("reviews"),
        F.countDistinct("user_id").alias("reviewers"),
        (F.coalesce(F.sum("helpful_votes"), F.lit(0)) / F.count("*")).alias("mean_helpful_votes"),
        F.year(F.min("timestamp")).alias("earliest_year"),
    )
