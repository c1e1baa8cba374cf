"""Intervals hold as many new labels as they promise, and are finite where there are few rows."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.algorithms.conformal import Intervals, fit


def drawn(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Predictions, and labels whose spread grows with them."""
    rng = np.random.default_rng(seed)
    prediction = rng.uniform(1, 5, n)
    return prediction, prediction + rng.standard_t(4, n) * (0.1 + 0.2 * prediction)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_the_promised_share_of_new_labels_is_inside_in_each_group(level: float) -> None:
    intervals = fit(*drawn(4000, 1), level, 10)
    prediction, label = drawn(40_000, 2)
    low, high = intervals.around(prediction, -100, 100)
    inside = (low <= label) & (label <= high)
    group = np.searchsorted(intervals.borders, prediction, side="right")
    assert inside.mean() == pytest.approx(level, abs=0.015)
    assert all(inside[group == g].mean() == pytest.approx(level, abs=0.06) for g in range(10))
    assert np.diff(intervals.high)[[0, 4, 8]].sum() > 0  # wider where the labels spread more


def test_the_ends_are_ranks_of_the_errors_within_the_range_of_labels() -> None:
    errors = np.arange(1, 100) / 100  # 99 of them: ranks 5 and 95 hold nine of ten
    intervals = fit(np.full(99, 3.0), 3.0 + errors, 0.9, 10)
    assert list(intervals.borders) == []
    assert (intervals.low, intervals.high) == ([pytest.approx(0.05)], [pytest.approx(0.95)])
    low, high = intervals.around(np.array([4.5], np.float32), 1, 5)
    assert (low[0], high[0]) == (pytest.approx(4.55), 5)


def test_few_rows_give_the_widest_interval_and_none_the_whole_range() -> None:
    few = fit(np.array([2.0, 4.0]), np.array([2.5, 3.0]), 0.9, 10)
    assert (few.low, few.high) == ([-1.0], [0.5])
    low, high = Intervals(0.9, [], [-np.inf], [np.inf]).around(np.array([3.0]), 1, 5)
    assert (low[0], high[0]) == (1, 5)
    assert fit(np.zeros(0), np.zeros(0), 0.9, 10).low == [-np.inf]
