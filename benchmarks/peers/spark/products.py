"""One row per product, in Spark: prices imputed, and the mean price of the also-viewed products by explode and join."""

from __future__ import annotations

import math
from typing import Any


def completed(catalogue: Any) -> Any:
    """Return what our stage `items` defines, from canonical products with `file` and `row`.

    Of repeated products the first stays. A price of 0 is a price. A product that is listed twice counts twice.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    first = Window.partitionBy("item_id").orderBy("file", "row")
    products = catalogue.withColumn("nth", F.row_number().over(first)).filter("nth = 1").drop("nth")
    priced = products.filter(F.col("price").isNotNull()).select(
        F.col("item_id").alias("viewed"), F.col("price").alias("of")
    )
    listed = products.select("item_id", F.explode("also_viewed").alias("viewed"))
    # In ascending order, as the sum of doubles depends on it.
    prices = F.array_sort(F.collect_list("of"))
    total = F.aggregate(prices, F.lit(0.0), lambda done, price: done + price)
    seen = listed.join(priced, "viewed").groupBy("item_id")
    seen = seen.agg((total / F.size(prices)).alias("mean_price_also_viewed"), F.count("of").alias("n"))
    # Apart: Spark does not mix aggregates in Python with its own.
    mean = products.agg(exact_mean()("price").alias("mean_price"))
    known = mean.crossJoin(products.agg(F.percentile("price", F.lit(0.5)).alias("median_price")))
    titled = F.when(F.col("title").rlike(r"(?U)\S"), F.col("title")).otherwise("unknown")
    return (
        products.join(seen, "item_id", "left")
        .crossJoin(F.broadcast(known))
        .select(
            "file",
            "row",
            "item_id",
            titled.alias("title"),
            *("brand", "price", "category", "sales_category", "sales_rank"),
            F.coalesce("price", "mean_price").alias("price_mean_imputed"),
            F.coalesce("price", "median_price").alias("price_median_imputed"),
            "mean_price_also_viewed",
            F.coalesce("n", F.lit(0)).cast("int").alias("count_also_viewed"),
        )
    )


def exact_mean() -> Any:
    """Return the correctly rounded mean as an aggregate; null without values."""
    import pandas as pd
    from pyspark.sql import functions as F

    def mean(values: pd.Series) -> float | None:
        known = values.dropna()
        return math.fsum(known) / len(known) if len(known) else None

    mean.__annotations__ = {"values": pd.Series, "return": float}  # Spark reads classes, not their names
    return F.pandas_udf(mean, "double")
