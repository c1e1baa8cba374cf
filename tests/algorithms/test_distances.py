"""Distances of binned distributions, against the formulas written out and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from tasks.algorithms.distances import kolmogorov_smirnov, population_stability_index, psi_by_chance

COUNTS = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=12).filter(
    lambda pairs: all(map(sum, zip(*pairs, strict=True)))
)


@given(COUNTS)
def test_psi_is_the_sum_over_bins_symmetric_and_zero_for_the_same_shares(pairs: list[tuple[int, int]]) -> None:
    a, b = map(list, zip(*pairs, strict=True))
    half = 0.5 / min(sum(a), sum(b))
    p, q = ([(x / sum(side) + half) / (1 + half * len(a)) for x in side] for side in (a, b))
    by_hand = sum((y - x) * math.log(y / x) for x, y in zip(p, q, strict=True))
    assert population_stability_index(a, b) == pytest.approx(by_hand, abs=1e-12)
    assert population_stability_index(b, a) == pytest.approx(by_hand, abs=1e-12)
    assert population_stability_index(a, [3 * x for x in a]) == pytest.approx(0, abs=1e-12)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=80), st.lists(st.integers(-5, 5), min_size=1, max_size=80))
def test_ks_in_a_bin_for_each_value_is_that_of_scipy(a: list[int], b: list[int]) -> None:
    counts = [np.bincount(np.array(side) + 5, minlength=11).tolist() for side in (a, b)]
    assert kolmogorov_smirnov(*counts) == pytest.approx(ks_2samp(a, b).statistic)


def test_nothing_is_far_from_nothing_and_what_shares_no_bin_is_as_far_as_can_be() -> None:
    assert kolmogorov_smirnov([0, 0], [3, 4]) == population_stability_index([0, 0], [3, 4]) == 0
    assert kolmogorov_smirnov([7, 0], [0, 9]) == 1
    assert population_stability_index([700, 0], [0, 900]) > 10


def test_two_samples_of_one_distribution_are_about_as_far_apart_as_chance_says() -> None:
    random = np.random.default_rng(7)
    draws = [random.multinomial(2000, [0.1] * 10).tolist() for _ in range(200)]
    found = np.mean([population_stability_index(a, b) for a, b in zip(draws[::2], draws[1::2], strict=True)])
    assert found == pytest.approx(psi_by_chance(draws[0], draws[1]), rel=0.15)
