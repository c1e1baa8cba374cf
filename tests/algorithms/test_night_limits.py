"""Limits learned from past nights: seldom wrong while nothing changes, and not blind when something does."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.algorithms.night_limits import learned

NIGHTS, WARM_UP, NUMBERS = 14, 7, 60  # as in conf/base.yaml; about as many numbers as a run watches


def outside(past: np.ndarray, value: float, *, numbers: int = NUMBERS, least_change: float = 0.0) -> bool:
    limits = learned(list(past), numbers=numbers, false_alarms=0.02, least_change=least_change)
    return not limits.hold(value)


@pytest.mark.parametrize("numbers", [1, NUMBERS])
def test_a_hundred_nights_of_equal_data_warn_on_fewer_than_one_in_twenty(numbers: int) -> None:
    rng, worlds = np.random.default_rng(0), 300 // numbers
    warned = nights = 0
    for _ in range(worlds):
        values = 1000 + rng.normal(size=(100, numbers)) * rng.uniform(0.1, 50, numbers)
        for night in range(WARM_UP, 100):
            past = values[max(0, night - NIGHTS) : night]
            warned += any(outside(past[:, i], values[night, i], numbers=numbers) for i in range(numbers))
            nights += 1
    assert warned / nights < 0.05


@pytest.mark.parametrize("nights", [WARM_UP, NIGHTS])
def test_half_of_the_rows_are_told_also_after_a_night_that_was_odd(nights: int) -> None:
    rng = np.random.default_rng(1)
    past = 20_000 + rng.normal(size=nights) * 200
    assert outside(past, 10_000)
    past[3] = 900_000
    assert outside(past, 10_000)
    assert not outside(past, 20_300)


def test_a_change_that_lasts_is_told_until_it_is_most_of_the_nights() -> None:
    values = list(20_000 + np.random.default_rng(2).normal(size=60) * 50)
    values[30:] = [value + 10_000 for value in values[30:]]
    told = [night for night in range(NIGHTS, 60) if outside(np.array(values[night - NIGHTS : night]), values[night])]
    assert told == list(range(30, told[-1] + 1))
    assert 33 <= told[-1] <= 37


def test_data_that_grow_evenly_are_no_news() -> None:
    rows = 20_000 * 1.01 ** np.arange(40)
    assert not any(outside(rows[max(0, n - NIGHTS) : n], rows[n]) for n in range(WARM_UP, 40))


def test_a_small_change_of_what_never_changed_is_not_told() -> None:
    past = np.full(NIGHTS, 0.01)
    assert outside(past, 0.02)
    assert not outside(past, 0.02, least_change=0.02)
