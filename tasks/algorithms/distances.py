"""Distances of two distributions, from counts in the same bins or categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log

HALF = 0.5  # added to each count (Jeffreys' prior), so that an empty bin makes no infinite distance


def population_stability_index(a: Sequence[float], b: Sequence[float]) -> float:
    """Return PSI = Σ (qᵢ - pᵢ) ln(qᵢ / pᵢ) over bins, for shares p of `a` and q of `b`; 0 for equal counts.

    It is the symmetric divergence J of Kullback and Leibler (On Information and Sufficiency, 1951). By custom a shift
    below 0.1 is small and one above 0.25 large (Siddiqi, Credit Risk Scorecards, 2006). Two samples of n and m rows of
    one distribution have about (bins - 1)(1/n + 1/m) (Yurdakul and Naranjo, Statistical Properties of the PSI, 2020).
    """
    if not sum(a) or not sum(b):
        return 0.0
    p, q = (_smoothed(counts) for counts in (a, b))
    return sum((y - x) * log(y / x) for x, y in zip(p, q, strict=True))


def _smoothed(counts: Sequence[float]) -> list[float]:
    total = sum(counts) + HALF * len(counts)
    return [(count + HALF) / total for count in counts]


def total_variation(a: Mapping[str | None, int], b: Mapping[str | None, int]) -> float:
    """Return ½ Σ |qᵢ - pᵢ| over categories: the largest difference in the probability of any event, 0 to 1.

    Levin, Peres and Wilmer, Markov Chains and Mixing Times, 2009, proposition 4.2.
    """
    n, m = sum(a.values()), sum(b.values())
    if not n or not m:
        return 0.0
    return sum(abs(b.get(name, 0) / m - a.get(name, 0) / n) for name in {*a, *b}) / 2
