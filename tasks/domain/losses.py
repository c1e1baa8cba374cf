"""Compute the loss of each row, and a target's metric from their mean, with numpy only.

Labels are (n,) numbers as `tasks.domain.targets` makes them. A prediction is (n,) numbers or probabilities, or, for a
target of several classes, (n, classes) probabilities.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.domain.targets import Target

Array = np.ndarray[Any, Any]

SMALLEST = 1e-15  # the least probability: an event predicted as impossible costs 34.5 nats, not infinitely many


def losses(target: Target, label: Array, prediction: Array) -> Array:
    """Return the rows' losses, (n,) float64; `overall` turns their mean into the target's metric.

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


def overall(metric: str, mean: float) -> float:
    """Compute the metric from the mean loss."""
    return float(mean**0.5) if metric == "rmse" else float(mean)


def mean_loss(metric: str, value: float) -> float:
    """Compute the mean loss from the metric: the inverse of `overall`."""
    return value**2 if metric == "rmse" else value
