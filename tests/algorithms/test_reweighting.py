"""The mean loss in another mix, against weighted means written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.algorithms.reweighting import Cells, price, rake

LEVELS = (3, 4)


def cells(rows: Any, losses: Any) -> Cells:
    """A cell for each pair of levels that has rows; each row of a cell has the same loss."""
    rows, losses = np.asarray(rows, float), np.asarray(losses, float)
    there = rows > 0
    counts, each = rows[there], losses[there]
    return Cells(np.argwhere(there), counts, counts * each, counts * each**2)


def margins(night: Any) -> list[Any]:
    return [np.asarray(night, float).sum(axis=1 - d) for d in (0, 1)]


def tables(low: int) -> st.SearchStrategy[Any]:
    flat = st.lists(st.integers(low, 40), min_size=12, max_size=12).filter(any)
    return flat.map(lambda values: np.reshape(values, LEVELS))


LOSSES = st.lists(st.floats(0, 4), min_size=12, max_size=12).map(lambda values: np.reshape(values, LEVELS))


@given(tables(0), LOSSES)
def test_an_unchanged_mix_has_the_loss_that_it_has(rows: Any, losses: Any) -> None:
    known = cells(rows, losses)
    priced = price(known, margins(7 * rows), rows=10**9)
    assert priced.mean == pytest.approx(known.mean)
    assert priced.effective_rows == pytest.approx(rows.sum())
    assert priced.error == pytest.approx(0, abs=1e-3)


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 5), st.integers(0, 50)), min_size=1, max_size=8))
def test_in_one_dimension_it_is_the_sum_of_shares_times_losses(kinds: list[tuple[int, float, int]]) -> None:
    rows, losses, night = (np.array(values, float) for values in zip(*kinds, strict=True))
    if not night.sum():
        night[0] = 1
    known = Cells(np.arange(len(rows))[:, None], rows, rows * losses, rows * losses**2)
    assert price(known, [night], 100).mean == pytest.approx(float((night / night.sum()) @ losses))


@given(tables(1), tables(1), st.lists(st.floats(0, 3), min_size=7, max_size=7))
def test_it_is_exact_where_each_dimension_adds_its_own_loss_whatever_the_night(
    rows: Any, night: Any, parts: list[float]
) -> None:
    losses = np.add.outer(parts[:3], parts[3:])
    right = float((night * losses).sum() / night.sum())
    assert price(cells(rows, losses), margins(night), 100).mean == pytest.approx(right, abs=1e-6)


@given(tables(1), tables(0))
def test_the_weighted_cells_have_the_margins_that_are_wanted(rows: Any, night: Any) -> None:
    known = cells(rows, np.zeros(LEVELS))
    weights, unmet = rake(known, margins(night))
    assert unmet < 1e-6
    met = np.zeros(LEVELS)
    met[tuple(known.levels.T)] = weights * known.rows
    for found, wanted in zip(margins(met), margins(night), strict=True):
        np.testing.assert_allclose(found / found.sum(), wanted / wanted.sum(), atol=1e-6)


def test_a_kind_whose_losses_nobody_knows_leaves_the_others_their_shares() -> None:
    known = cells([[10, 10, 0, 0]], [[1.0, 3.0, 0, 0]])
    night = [np.array([100.0]), np.array([20.0, 60.0, 500.0, 0.0])]
    assert price(known, night, 100).mean == pytest.approx((20 * 1 + 60 * 3) / 80)


def test_a_dimension_of_which_nothing_is_known_changes_nothing() -> None:
    """Such as a night without the column `verified`: the rare level must not count as half of it."""
    known = cells([[900, 50], [50, 0]], [[1.0, 4.0], [2.0, 0]])
    nowhere = np.zeros(2)
    assert price(known, [nowhere, nowhere], 100).mean == pytest.approx(known.mean)
    half = [np.array([50.0, 50.0]), nowhere]
    alone = Cells(known.levels[:, :1], known.rows, known.sums, known.squares)
    assert price(known, half, 100).mean == pytest.approx(price(alone, half[:1], 100).mean)


def test_margins_that_exclude_each_other_change_nothing_and_say_so() -> None:
    known = cells(np.diag([5, 5, 5]), np.diag([1.0, 2.0, 3.0]))
    priced = price(known, [np.array([1.0, 0, 0]), np.array([0, 1.0, 0])], 100)
    assert (priced.mean, priced.unmet) == (pytest.approx(2.0), 1.0)


def test_few_known_rows_that_stand_for_many_are_worth_few_and_less_certain() -> None:
    losses = [[1.0, 2.0]]
    many, few = (price(cells([[900, n]], losses), [np.array([1.0]), np.array([0.2, 0.8])], 500) for n in (900, 9))
    assert few.mean == pytest.approx(many.mean)
    assert few.effective_rows < 20 < many.effective_rows
    assert few.error > 3 * many.error
