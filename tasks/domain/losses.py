"""The loss of each row, and what a target's metric makes of their mean. numpy alone.

Labels are (n,) numbers as `tasks.domain.targets` makes them. A prediction is (n,) numbers or probabilities, or, for a
target of several classes, (n, classes) probabilities.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.domain.targets import Target

Array = np.ndarray[Any, Any]

SMALLEST = 1e-15  # a probability of 0 for what then happens costs 34.5 nats, not infinitely many


def losses(target: Target, label: Array, prediction: Array) -> Array:
    """(n,) float64 losses of the rows, whose mean `overall` turns into the target's metric.

    Squared error for a regression, log loss in nats for classes.
    """
    y, p = label.astype(np.float64), prediction.astype(np.float64)
    if target.metric == "rmse":
        p -= y
        return np.square(p, out=p)
    if target.metric == "logloss":
        p = p.clip(SMALLEST, 1 - SMALLEST)
        return np.negative(np.where(y > 0.5, np.log(p), np.log1p(-p)))
    if p.ndim != 2:
        raise ValueError(f"{target.name}: the loss needs a probability for each class, got shape {p.shape}")
    of_the_label: Array = p[np.arange(len(y)), y.astype(np.intp)].clip(SMALLEST, 1)
    nats: Array = -np.log(of_the_label)
    return nats


def overall(metric: str, mean_loss: float) -> float:
    """The metric of many rows from the mean of their losses."""
    return float(mean_loss**0.5) if metric == "rmse" else float(mean_loss)
