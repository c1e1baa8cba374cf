"""Ridge regression over ranks: the closed-form solution, however the rows are spread."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, random_array

from tasks.parallel.comm import Comm, run_threads
from tasks.parallel.comm_actors import run_actors
from tasks.parallel.ridge import fit_ridge

Array = npt.NDArray[Any]


def problem(rows: int, columns: int, seed: int) -> tuple[csr_matrix, Array]:
    rng = np.random.default_rng(seed)
    x = csr_matrix(random_array((rows, columns), density=0.4, rng=rng))
    return x, x @ rng.standard_normal(columns) + 0.1 * rng.standard_normal(rows)


def closed_form(x: csr_matrix, y: Array, l2: float) -> Array:
    dense = x.toarray()
    return np.linalg.solve(dense.T @ dense + l2 * np.eye(dense.shape[1]), dense.T @ y)


def fit(comm: Comm, x: csr_matrix, y: Array, l2: float, iterations: int, start: Array) -> Array:
    return fit_ridge(comm, x, y, l2=l2, iterations=iterations, start=start)


def spread(x: csr_matrix, y: Array, edges: list[int], **rest: Any) -> list[tuple[Any, ...]]:
    """The rows between edges for each rank; a rank may have none."""
    given_rest = (rest["l2"], rest["iterations"], rest["start"])
    return [(x[a:b], y[a:b], *given_rest) for a, b in pairwise(edges)]


@st.composite
def shards(draw: st.DrawFn) -> tuple[int, list[int]]:
    rows = draw(st.integers(1, 60))
    world = draw(st.integers(1, 5))
    inner = sorted(draw(st.lists(st.integers(0, rows), min_size=world - 1, max_size=world - 1)))
    return rows, [0, *inner, rows]


@settings(max_examples=50, deadline=None)
@given(
    shape=shards(),
    columns=st.integers(1, 12),
    l2=st.sampled_from([0.1, 1.0, 30.0]),
    warm=st.booleans(),
    seed=st.integers(0, 99),
)
@example(shape=(12, [0, 12]), columns=12, l2=0.1, warm=False, seed=22)  # as many rows as columns
def test_any_spread_of_rows_gives_the_closed_form_on_every_rank(
    shape: tuple[int, list[int]], columns: int, l2: float, warm: bool, seed: int
) -> None:
    rows, edges = shape
    x, y = problem(rows, columns, seed)
    exact = closed_form(x, y, l2)
    # A warm start that is near, as the block before gives.
    start = exact + 0.1 * np.random.default_rng(seed).standard_normal(columns) if warm else np.zeros(columns)
    results = run_threads(fit, spread(x, y, edges, l2=l2, iterations=20 * columns, start=start))
    assert {r.tobytes() for r in results} == {results[0].tobytes()}
    # The fit stops where the gradient is 1e-5 of what it was at the start. The curvature is l2 at least, so the weights
    # are then no further off than this; twice that leaves room for rounding.
    gradient = x.T @ (y - x @ start) - l2 * start
    assert np.linalg.norm(results[0] - exact) <= 2e-5 * np.linalg.norm(gradient) / l2 + 1e-9


def test_one_rank_and_three_agree_after_few_iterations_in_float32() -> None:
    x, y = problem(300, 40, 1)
    x, y, start = x.astype(np.float32), y.astype(np.float32), np.zeros(40, np.float32)
    one, three = (
        run_threads(fit, spread(x, y, edges, l2=1.0, iterations=8, start=start))[0]
        for edges in ([0, 300], [0, 90, 110, 300])
    )
    assert one.dtype == three.dtype == np.float32
    # Float32 sums in another order, carried through eight steps that have not converged: the digits that agree depend
    # on the machine's kernels.
    np.testing.assert_allclose(one, three, atol=2e-3)


def test_more_iterations_come_nearer() -> None:
    x, y = problem(200, 30, 2)
    exact, start = closed_form(x, y, 1.0), np.zeros(30)
    near = [
        np.linalg.norm(run_threads(fit, spread(x, y, [0, 200], l2=1.0, iterations=n, start=start))[0] - exact)
        for n in (0, 2, 8, 30)
    ]
    assert near == sorted(near, reverse=True)
    assert near[-1] < 1e-4 * near[0]


def test_the_start_is_not_changed() -> None:
    x, y = problem(20, 3, 3)
    start = np.ones(3)
    run_threads(fit, spread(x, y, [0, 20], l2=1.0, iterations=5, start=start))
    np.testing.assert_array_equal(start, np.ones(3))


def test_nothing_to_learn_gives_zero_and_not_nan() -> None:
    x, y = csr_matrix((0, 4)), np.zeros(0)
    for w in run_threads(fit, spread(x, y, [0, 0, 0], l2=1.0, iterations=5, start=np.zeros(4))):
        np.testing.assert_array_equal(w, np.zeros(4))


def test_actors_give_the_bits_of_the_oracle(ray_session: None) -> None:
    x, y = problem(120, 15, 4)
    arguments = spread(x, y, [0, 50, 50, 120], l2=0.5, iterations=10, start=np.zeros(15))
    expected, actual = run_threads(fit, arguments), run_actors(fit, arguments)
    assert [a.tobytes() for a in actual] == [e.tobytes() for e in expected]
