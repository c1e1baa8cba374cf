"""Truncated SVD over ranks: numpy's singular values and subspace, however the rows are spread."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, random_array

from tasks.parallel.comm import Comm, run_threads
from tasks.parallel.svd import truncated_svd

Array = npt.NDArray[Any]


def falling(rows: int, columns: int, seed: int) -> Array:
    """A matrix whose singular values fall by half each."""
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.standard_normal((n, min(rows, columns))))[0] for n in (rows, columns))
    return (u * 0.5 ** np.arange(u.shape[1])) @ v.T


def fit(comm: Comm, x: Any, k: int, iterations: int = 4) -> tuple[Array, Array]:
    return truncated_svd(comm, x, k=k, iterations=iterations, seed=3)


def spread(x: Any, edges: list[int], *rest: Any) -> list[tuple[Any, ...]]:
    """The rows between edges for each rank; a rank may have none."""
    return [(x[a:b], *rest) for a, b in pairwise([0, *edges, x.shape[0]])]


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 30),
    k=st.integers(1, 5),
    cuts=st.lists(st.integers(0, 40), max_size=4),
    seed=st.integers(0, 99),
)
def test_any_spread_of_rows_gives_numpys_decomposition_on_every_rank(
    rows: int, columns: int, k: int, cuts: list[int], seed: int
) -> None:
    x, k = falling(rows, columns, seed), min(k, columns)
    results = run_threads(fit, spread(x, sorted(min(c, rows) for c in cuts), k))
    assert len({v.tobytes() + s.tobytes() for v, s in results}) == 1
    v, s = results[0]
    _, exact, vt = np.linalg.svd(x, full_matrices=False)
    exact, vt = exact[:k], vt[:k]
    np.testing.assert_allclose(s[: len(exact)], exact, atol=1e-7)
    np.testing.assert_allclose(s[len(exact) :], 0, atol=1e-7)
    np.testing.assert_allclose(v.T @ v, np.eye(k), atol=1e-8)
    # The same vectors but for their signs.
    np.testing.assert_allclose(np.abs(np.sum(v[:, : len(vt)].T * vt, axis=1)), 1, atol=1e-6)
    assert (v[np.abs(v).argmax(axis=0), range(k)] > 0).all()


def test_a_sparse_matrix_whose_values_fall_slowly_is_kept_as_well_as_it_can_be() -> None:
    x = csr_matrix(random_array((400, 300), density=0.05, rng=np.random.default_rng(1), dtype=np.float32))
    exact = np.linalg.svd(x.toarray(), compute_uv=False)
    kept = [run_threads(fit, spread(x, [150], 12, q))[0][1] for q in (0, 8)]
    best, once, often = ((s[:12] ** 2).sum() for s in (exact, *kept))
    assert once < often <= best * (1 + 1e-5)  # no projection keeps more
    assert often > 0.995 * best
    assert kept[1].dtype == np.float64


def test_no_rows_at_all_gives_zeros_and_not_nan() -> None:
    for v, s in run_threads(fit, spread(csr_matrix((0, 6)), [0], 2)):
        assert (v.shape, s.tolist()) == ((6, 2), [0, 0])
        assert np.isfinite(v).all()


@pytest.mark.parametrize("k", [0, 7])
def test_more_vectors_than_columns_are_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"{k} singular vectors of a matrix with 6 columns"):
        run_threads(fit, [(np.ones((9, 6)), k)])
