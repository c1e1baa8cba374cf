"""Distances of two distributions, from counts in the same bins or categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import log, pi, sqrt


def population_stability_index(a: Sequence[float], b: Sequence[float]) -> float:
    """Return PSI = Σ (qᵢ - pᵢ) ln(qᵢ / pᵢ) over bins, for shares p of `a` and q of `b`; 0 for equal shares.

    It is the symmetric divergence J of Kullback and Leibler (On Information and Sufficiency, 1951). By custom a shift
    below 0.1 is small and one above 0.25 large (Siddiqi, Credit Risk Scorecards, 2006). To each share half a row of the
    smaller side is added, so that an empty bin makes no infinite distance.
    """
    n, m = sum(a), sum(b)
    if not n or not m:
        return 0.0
    half = 0.5 / min(n, m)
    shares = ((x / n + half, y / m + half) for x, y in zip(a, b, strict=True))
    return sum((q - p) * log(q / p) for p, q in shares) / (1 + half * len(a))


def psi_by_chance(a: Sequence[float], b: Sequence[float]) -> float:
    """Return about the mean PSI of two samples of one distribution, as large as these: (bins - 1)(1/n + 1/m).

    Yurdakul and Naranjo, Statistical Properties of the Population Stability Index, 2020. Bins empty in both do not
    count.
    """
    n, m = sum(a), sum(b)
    if not n or not m:
        return 0.0
    return (sum(1 for x, y in zip(a, b, strict=True) if x + y) - 1) * (1 / n + 1 / m)


def kolmogorov_smirnov(a: Sequence[float], b: Sequence[float]) -> float:
    """Return D = max |F(x) - G(x)| over the bins' upper borders, for counts `a` and `b` in ascending bins; 0 to 1.

    Smirnov, Table for Estimating the Goodness of Fit of Empirical Distributions, 1948. Between two borders the
    distributions may be further apart, by at most the larger share of the bin.
    """
    n, m = sum(a), sum(b)
    if not n or not m:
        return 0.0
    return max(abs(x / n - y / m) for x, y in zip(accumulate(a), accumulate(b), strict=True))


def total_variation(a: Mapping[str | None, int], b: Mapping[str | None, int]) -> float:
    """Return ½ Σ |qᵢ - pᵢ| over categories: the largest difference in the probability of any event, 0 to 1.

    Levin, Peres and Wilmer, Markov Chains and Mixing Times, 2009, proposition 4.2.
    """
    n, m = sum(a.values()), sum(b.values())
    if not n or not m:
        return 0.0
    return sum(abs(b.get(name, 0) / m - a.get(name, 0) / n) for name in {*a, *b}) / 2


def total_variation_by_chance(a: Mapping[str | None, int], b: Mapping[str | None, int]) -> float:
    """Return about the mean total variation of two samples of one distribution, as large as these.

    The difference of a category's shares is nearly normal, with variance p(1 - p)(1/n + 1/m); the mean absolute value
    of a normal variable is its standard deviation times √(2/π).
    """
    n, m = sum(a.values()), sum(b.values())
    if not n or not m:
        return 0.0
    shares = ((a.get(name, 0) + b.get(name, 0)) / (n + m) for name in {*a, *b})
    return sum(sqrt(p * (1 - p)) for p in shares) * sqrt((1 / n + 1 / m) * 2 / pi) / 2
