"""Count words in Spark: the columns of WORD_COUNTS from clean reviews, by review and word first, then by word."""

from __future__ import annotations

from typing import Any

# (?U): \w as in Unicode Technical Standard 18. Possessive: a match never has to give back, and Java recurses if it may.
WORD = r"(?U)\w++(?:['’]\w++)*+"
STARS = range(1, 6)


def counted(reviews: Any) -> Any:
    """Return a row per word, in no order. reviews: title, text, rating, timestamp."""
    from pyspark.sql import functions as F

    text = F.lower(F.concat("title", F.lit("\n"), "text"))
    stars = F.floor(F.col("rating") + F.lit(0.5)).cast("int")
    said = reviews.select(
        F.monotonically_increasing_id().alias("review"),
        F.least(F.greatest(stars, F.lit(1)), F.lit(5)).alias("stars"),
        F.col("timestamp").alias("seen"),
        F.regexp_extract_all(text, F.lit(WORD), F.lit(0)).alias("words"),
    )
    each = said.select("review", "stars", "seen", F.explode("words").alias("token"))
    by_review = each.groupBy("review", "token").agg(
        F.count("*").alias("n"), F.first("stars").alias("stars"), F.first("seen").alias("seen")
    )
    return by_review.groupBy("token").agg(
        F.lit(1).cast("byte").alias("n"),
        F.sum("n").alias("count"),
        F.count("*").alias("documents"),
        *(F.coalesce(F.sum(F.when(F.col("stars") == k, F.col("n"))), F.lit(0)).alias(f"rating_{k}") for k in STARS),
        F.min("seen").alias("first_seen"),
    )
