"""Normalise texts in Spark, and find the reviews that repeat others: what our stage `clean` defines, as Spark does it.

Java's regular expressions do most of it. NFC and HTML entities have no function in Spark, so the texts that may need
them (few) go to Python in Arrow batches.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from typing import Any

# (?U): \s and \S by Unicode, as in Rust's regular expressions; (?iu): letters without case by Unicode.
TAG = r"<[a-zA-Z/!][^>]*>"
URL = r"(?U)(?iu:https?://|www\.)[^\s<]+"
# Not a single space: nearly all blanks are one, and each match costs a copy.
BLANKS = r"(?U)[\s\p{Cc}]{2,}|[^\S ]|\p{Cc}"
Column = Any


def tidy(rows: Any, names: Sequence[str]) -> Any:
    """Normalise columns of texts by all steps of `clean` that are on by default, in their order.

    Each step only where a search for a literal finds that it may be needed: `when` evaluates no more than it must. A
    projection for each: in one expression the text of each step would be written, and computed, several times.
    """
    from pyspark.sql import functions as F

    decode = decoder()

    def decoded(text: Column) -> Column:
        wanted = (F.length(text) != F.octet_length(text)) | text.contains("&")
        return F.coalesce(decode(F.when(wanted, text)), text)  # nulls cost little on their way to Python and back

    def without_tags(text: Column) -> Column:
        return F.when(text.contains("<"), F.regexp_replace(text, TAG, " ")).otherwise(text)

    def without_urls(text: Column) -> Column:
        linked = text.contains("://") | text.rlike(r"(?i)www\.")
        return F.when(linked, F.regexp_replace(text, URL, " ")).otherwise(text)

    def without_blanks(text: Column) -> Column:
        return F.trim(F.regexp_replace(text, BLANKS, " "))

    for step in (decoded, without_tags, without_urls, without_blanks):
        rows = rows.withColumns({name: step(F.col(name)) for name in names})
    return rows


def decoder() -> Any:
    """Return `plain_text` as a function of columns; null for null."""
    import pandas as pd
    from pyspark.sql import functions as F

    def decode(texts: pd.Series) -> pd.Series:
        return texts.map(plain_text, na_action="ignore")

    decode.__annotations__ = {"texts": pd.Series, "return": pd.Series}  # Spark reads classes, not their names
    return F.pandas_udf(decode, "string")


def plain_text(text: str) -> str:
    """Bring a text to NFC and decode its HTML entities, until neither changes it."""
    text = unicodedata.normalize("NFC", text)
    while "&" in text:
        plain = unicodedata.normalize("NFC", html.unescape(text))
        if plain == text:
            break
        text = plain
    return text


def repeats(keys: Any, latest: Sequence[str]) -> Any:
    """Return the rows of `keys` that repeat another: of one review_id all but the first by `latest`, descending, and
    of what is left the same for each user and item.

    keys: narrow, without texts: all of it is shuffled twice.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    order = [F.desc(column) for column in latest]
    by_id = F.row_number().over(Window.partitionBy("review_id").orderBy(*order))
    numbered = keys.withColumn("of_id", by_id)
    # Those that are already gone compete among themselves.
    pair = Window.partitionBy("user_id", "item_id", F.col("of_id") == 1).orderBy(*order)
    numbered = numbered.withColumn("of_pair", F.row_number().over(pair))
    return numbered.filter((F.col("of_id") > 1) | (F.col("of_pair") > 1)).drop("of_id", "of_pair")


def without(rows: Any, gone: Any) -> Any:
    """Remove rows by file and row number. Repeats are few: sent to all tasks, so that no text is shuffled."""
    from pyspark.sql import functions as F

    return rows.join(F.broadcast(gone.select("file", "row")), ["file", "row"], "left_anti")


def read_numbered(spark: Any, files: Sequence[Any]) -> Any:
    """Read parquet files with `file`, the name, and `row`, the number of the row in it."""
    from pyspark.sql import functions as F

    place = (F.col("_metadata.file_name").alias("file"), F.col("_metadata.row_index").alias("row"))
    return spark.read.parquet(*map(str, files)).select("*", *place)
