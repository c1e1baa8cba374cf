"""Prediction intervals from errors on rows that nothing was learned from: split conformal prediction.

The errors (label less prediction) of n such rows are exchangeable with a new row's, so the new error lies between the
ranks k and n + 1 - k of theirs with a probability of at least 1 - 2 k / (n + 1) (Vovk, Gammerman and Shafer, 2005).
Rows are grouped by their prediction (Mondrian conformal prediction), since errors are larger for some predictions than
for others. The promise holds on average over rows like those; when what is written changes, it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
MIN_ROWS = 100  # of a group: with fewer its extremes are the interval


@dataclass(frozen=True)
class Intervals:
    """borders: (groups - 1,) of the predictions, ascending; low, high: (groups,) to add to a prediction."""

    level: float
    borders: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]

    def around(self, prediction: Array, least: float, most: float) -> tuple[Array, Array]:
        """Return the (n,) float32 ends of the intervals around n predictions, within the label's range."""
        group = np.searchsorted(np.asarray(self.borders), prediction, side="right")
        ends = (prediction + np.asarray(side)[group] for side in (self.low, self.high))
        low, high = (np.clip(end, least, most).astype(np.float32) for end in ends)
        return low, high


def fit(prediction: Array, label: Array, level: float, groups: int) -> Intervals:
    """Fit intervals of a level such as 0.9 on n predictions and labels, in at most `groups` groups of equal size."""
    groups = max(1, min(groups, len(prediction) // MIN_ROWS))
    shares = [k / groups for k in range(1, groups)]
    borders = np.unique(np.quantile(prediction, shares)) if shares else np.zeros(0)
    group = np.searchsorted(borders, prediction, side="right")
    errors = label.astype(np.float64) - prediction
    ends = np.array([_ends(np.sort(errors[group == g]), level) for g in range(len(borders) + 1)])
    return Intervals(level, borders.tolist(), ends[:, 0].tolist(), ends[:, 1].tolist())


def _ends(errors: Array, level: float) -> tuple[float, float]:
    if not len(errors):
        return -np.inf, np.inf
    k = max(1, floor((len(errors) + 1) * (1 - level) / 2 + 1e-9))  # which may lack a bit of a whole number
    return float(errors[k - 1]), float(errors[-k])
