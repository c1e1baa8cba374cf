"""Gradient-boosted trees by MLlib, chosen by cross-validation: a peer of `quality`.

In: a table of numbers with `label` (stars), `slice` (0 train, 1 valid, 2 test) and any other columns, the features. The
settings are chosen on train and valid by CrossValidator with random folds, its default, and the best model is fitted on
all of them. MLlib's trees take no nulls; a null becomes MISSING, which a split can tell from every other value.
"""

from __future__ import annotations

from typing import Any

FOLDS, SEED, TREES = 3, 7, 50
# Four settings on three folds: twelve models, as many as our trials.
DEPTHS, STEPS = (4, 6), (0.1, 0.2)
MISSING = -1.0
TEST = 2
NOT_FEATURES = ("label", "slice")


def cross_validated(table: Any, trees: int = TREES) -> dict[str, Any]:
    """Return the RMSE in stars of the test rows, predictions clipped to 1..5; settings with their errors; the best."""
    from pyspark.ml.evaluation import RegressionEvaluator
    from pyspark.ml.feature import VectorAssembler
    from pyspark.ml.regression import GBTRegressor
    from pyspark.ml.tuning import CrossValidator, ParamGridBuilder
    from pyspark.sql import functions as F

    names = [name for name in table.columns if name not in NOT_FEATURES]
    numbers = table.select("slice", "label", *(F.col(name).cast("double").alias(name) for name in names))
    rows = VectorAssembler(inputCols=names, outputCol="features").transform(numbers.na.fill(MISSING))
    rows = rows.select("slice", "label", "features").cache()
    boosted = GBTRegressor(maxIter=trees, seed=SEED)
    grid = ParamGridBuilder().addGrid(boosted.maxDepth, DEPTHS).addGrid(boosted.stepSize, STEPS).build()
    error = RegressionEvaluator(metricName="rmse")
    search = CrossValidator(
        estimator=boosted, estimatorParamMaps=grid, evaluator=error, numFolds=FOLDS, seed=SEED, parallelism=1
    )
    found = search.fit(rows.filter(F.col("slice") < TEST))
    predicted = found.bestModel.transform(rows.filter(F.col("slice") == TEST))
    clipped = F.greatest(F.lit(1.0), F.least(F.lit(5.0), F.col("prediction")))
    rmse = predicted.select(F.sqrt(F.avg((clipped - F.col("label")) ** 2))).first()[0]
    settings = [{parameter.name: value for parameter, value in each.items()} for each in grid]
    tried = [{**each, "rmse": round(rmse_of, 5)} for each, rmse_of in zip(settings, found.avgMetrics, strict=True)]
    rows.unpersist()
    return {"rmse": rmse, "tried": tried, "best": min(tried, key=lambda one: one["rmse"])}
