"""What a model learns to say of a review: the targets, their labels and the losses they are judged by.

A target's name is chosen in conf (`features.target`), travels in the facts of every snapshot made for it, and is turned
back into a `Target` where its objective or its losses are needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

POSITIVE_STARS = 4  # a review of so many stars or more is a positive one


@dataclass(frozen=True)
class Target:
    """One target. A lower `metric` is better; trees are grown, searches judged and models promoted by it.

    name: as in conf. says: in words, for pages. objective: XGBoost's. metric: XGBoost's name of the loss.
    classes: columns of a prediction; 1 for a number or a probability. low, high: the range of a prediction.
    measures: all that evaluation reports, the metric first.
    """

    name: str
    says: str
    objective: str
    metric: str
    measures: tuple[str, ...]
    low: float
    high: float
    classes: int = 1

    @property
    def is_regression(self) -> bool:
        return self.metric == "rmse"

    @property
    def params(self) -> dict[str, Any]:
        """XGBoost's parameters that belong to the target."""
        several = {"num_class": self.classes} if self.classes > 1 else {}
        return {"objective": self.objective, "eval_metric": self.metric, **several}


TARGETS = {
    t.name: t
    for t in (
        Target("rating", "stars", "reg:squarederror", "rmse", ("rmse", "mae"), 1, 5),
        Target(
            "positive",
            f"{POSITIVE_STARS} stars or more",
            "binary:logistic",
            "logloss",
            ("logloss", "auc", "accuracy"),
            0,
            1,
        ),
        Target("stars", "stars as classes", "multi:softprob", "mlogloss", ("mlogloss", "accuracy", "rmse"), 0, 1, 5),
        Target("helpful", "share of helpful votes", "reg:squarederror", "rmse", ("rmse", "mae"), 0, 1),
    )
}


def labels(reviews: pa.Table, target: Target, min_votes: int) -> pa.Array:
    """(n,) float32 labels of canonical reviews; null where a review has none.

    rating: 1..5. positive: 0 or 1. stars: class 0..4 of the stars rounded. helpful: share of votes that are helpful,
    null where there are fewer than `min_votes` in all or where the votes are not known.
    """
    if target.name == "helpful":
        helpful, total = (reviews[c].cast(pa.float32()) for c in ("helpful_votes", "total_votes"))
        enough = pc.fill_null(pc.greater_equal(total, float(min_votes)), False)
        return pc.if_else(enough, pc.divide(helpful, total), pa.scalar(None, pa.float32())).combine_chunks()
    stars = reviews["rating"].to_numpy().astype(np.float32)
    if target.name == "positive":
        stars = (stars >= POSITIVE_STARS).astype(np.float32)
    elif target.name == "stars":
        stars = np.clip(np.floor(stars + 0.5), 1, 5).astype(np.float32) - 1
    return pa.array(stars)
