"""Limits for a number of tonight, learned from its values on past nights.

The limits are the median of the past values ± k times their median absolute deviation (MAD), so that one odd night
among them moves nothing, and a lasting change is accepted once it is most of them. k is chosen for the number of values
and of numbers: while every number is an independent draw from its own normal distribution, the share of nights with any
number outside is about `false_alarms`. With n values, (x - median) / MAD is about a Student's t with (n - 1) / 2
degrees of freedom; 1.4826 n / (n - 0.8) makes the MAD an estimate of the standard deviation (Croux and Rousseeuw,
1992), and π / 2n is the variance that the median adds. So few nights have wide limits. The tests simulate the rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Limits:
    """The values that are as before, and from how many nights that is known."""

    low: float
    high: float
    nights: int

    def hold(self, value: float) -> bool:
        return self.low <= value <= self.high


def learned(past: Sequence[float], *, numbers: int, false_alarms: float, least_change: float) -> Limits:
    """Return the limits from at least two past values.

    numbers: how many numbers are watched each night. false_alarms: the share of nights on which any of them may be
    outside by chance. least_change: a change of the median that is never outside.
    """
    values = np.asarray(past, np.float64)
    median = float(np.median(values))
    mad = float(np.median(np.abs(values - median)))
    reach = max(_factor(len(values), numbers, false_alarms) * mad, least_change)
    return Limits(median - reach, median + reach, len(values))


@lru_cache(maxsize=1000)
def _factor(n: int, numbers: int, false_alarms: float) -> float:
    """Return k: how many MADs of n values a further one may be from their median."""
    from scipy.special import stdtrit

    quantile = stdtrit((n - 1) / 2, 1 - false_alarms / (2 * numbers))
    return float(quantile * 1.4826 * n / (n - 0.8) * math.sqrt(1 + math.pi / (2 * n)))
