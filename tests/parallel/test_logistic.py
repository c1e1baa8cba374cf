"""Logistic regression over ranks: the minimum that SciPy finds, however the rows are spread."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.sparse import csr_matrix, random_array

from tasks.parallel.comm import Comm, run_threads
from tasks.parallel.comm_actors import run_actors
from tasks.parallel.logistic import fit_logistic

Array = npt.NDArray[Any]


class Rows(csr_matrix):
    def squares(self) -> Array:
        return np.asarray(self.multiply(self).sum(axis=0)).ravel()


def problem(rows: int, columns: int, questions: int, seed: int) -> tuple[Rows, Array]:
    """Rows whose columns are of very different frequency, and answers with noise; some are not known."""
    rng = np.random.default_rng(seed)
    x = Rows(
        random_array((rows, columns), density=0.5, rng=rng).multiply(0.1 + rng.random(columns) ** 4), dtype=np.float32
    )
    z = x @ rng.normal(0, 3, (columns, questions)) + rng.normal(0, 1, (rows, questions))
    y = (z > 0).astype(np.float32)
    y[rng.random(y.shape) < 0.1] = np.nan
    return x, y


def loss(w: Array, x: Any, y: Array, l2: float) -> float:
    """The sum over questions, by the formula."""
    z = x.toarray().astype(np.float64) @ w[:-1] + w[-1]
    return float(np.nansum(np.logaddexp(0, z) - y * z) + l2 / 2 * (w[:-1] ** 2).sum())


def least(x: Any, y: Array, l2: float) -> float:
    shape = (x.shape[1] + 1, y.shape[1])
    found = minimize(lambda w: loss(w.reshape(shape), x, y, l2), np.zeros(shape).ravel(), method="BFGS")
    return float(found.fun)


def fit(comm: Comm, x: Any, y: Array, l2: float, iterations: int, start: Array | None = None) -> Array:
    return fit_logistic(comm, x, y, l2=l2, iterations=iterations, start=start)


def spread(x: Any, y: Array, edges: list[int], *rest: Any) -> list[tuple[Any, ...]]:
    """The rows between edges for each rank; a rank may have none."""
    return [(Rows(x[a:b]), y[a:b], *rest) for a, b in pairwise(edges)]


@settings(max_examples=15, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 60), max_size=3),
    questions=st.integers(1, 3),
    l2=st.sampled_from([0.05, 1.0, 20.0]),
    seed=st.integers(0, 99),
)
def test_any_spread_of_rows_gives_the_minimum_on_every_rank(
    cuts: list[int], questions: int, l2: float, seed: int
) -> None:
    x, y = problem(60, 6, questions, seed)
    results = run_threads(fit, spread(x, y, [0, *sorted(cuts), 60], l2, 60))
    assert {r.tobytes() for r in results} == {results[0].tobytes()}
    assert loss(results[0], x, y, l2) <= least(x, y, l2) * (1 + 1e-3) + 1e-3


def test_few_steps_are_enough_for_columns_of_very_different_frequency() -> None:
    rng = np.random.default_rng(3)
    often = 0.5 ** np.arange(1, 9)  # from every second row to every 256th
    x = Rows((rng.random((4000, 8)) < often).astype(np.float32))
    y = (rng.random((4000, 1)) < 1 / (1 + np.exp(-(x @ np.full((8, 1), 2.0) - 1)))).astype(np.float32)
    (w,) = run_threads(fit, spread(x, y, [0, 4000], 0.1, 10))
    assert loss(w, x, y, 0.1) <= least(x, y, 0.1) * 1.001


def test_an_answer_may_be_a_share() -> None:
    x, y = Rows(np.ones((4, 1), np.float32)), np.array([[0.0], [0.5], [0.5], [0.6]], np.float32)
    (w,) = run_threads(fit, spread(x, y, [0, 4], 1e-3, 50))
    assert 1 / (1 + np.exp(-w.sum())) == pytest.approx(0.4, abs=1e-3)


def test_an_answer_that_is_not_known_changes_nothing() -> None:
    x, y = problem(40, 4, 1, 5)
    known = ~np.isnan(y[:, 0])
    (with_unknown,) = run_threads(fit, spread(x, y, [0, 40], 0.5, 80))
    (without,) = run_threads(fit, spread(Rows(x[known]), y[known], [0, int(known.sum())], 0.5, 80))
    np.testing.assert_allclose(with_unknown, without, atol=2e-2)


def test_a_start_near_the_minimum_is_kept_and_not_changed() -> None:
    x, y = problem(60, 5, 2, 7)
    (w,) = run_threads(fit, spread(x, y, [0, 60], 1.0, 80))
    start = w.copy()
    (again,) = run_threads(fit, spread(x, y, [0, 60], 1.0, 1, start))
    np.testing.assert_array_equal(start, w)
    assert loss(again, x, y, 1.0) <= loss(w, x, y, 1.0) * (1 + 1e-6)


def test_nothing_to_learn_gives_zero_and_not_nan() -> None:
    x, y = Rows((0, 3), dtype=np.float32), np.zeros((0, 2), np.float32)
    for w in run_threads(fit, spread(x, y, [0, 0, 0], 1.0, 5)):
        np.testing.assert_array_equal(w, np.zeros((4, 2)))


def test_actors_give_the_bits_of_threads(ray_session: None) -> None:
    x, y = problem(50, 5, 2, 4)
    arguments = spread(x, y, [0, 20, 50], 0.5, 8)
    assert run_actors(fit, arguments)[1].tobytes() == run_threads(fit, arguments)[0].tobytes()
