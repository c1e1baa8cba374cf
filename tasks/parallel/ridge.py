"""Data-parallel ridge regression by conjugate gradients with all-reduced sums.

It minimises |X w - y|^2 + l2 |w|^2, where the rows of X and y are spread over ranks and every rank holds w. Each
iteration takes one product with X and one with its transpose per rank, and one all-reduce of len(w) numbers (CGLS:
Bjorck, Numerical Methods for Least Squares Problems, 1996, section 7.4).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.parallel.allreduce import allreduce
from tasks.parallel.comm import Array, Comm


def fit_ridge(comm: Comm, x: Any, y: Array, *, l2: float, iterations: int, start: Array) -> Array:
    """Return the weights (d,) after at most `iterations` steps from `start`, the same on every rank.

    x: this rank's rows, a sparse matrix (n, d); y: (n,) float; start: (d,).
    """
    w: Array = start.copy()
    residual = y - x @ w
    gradient = allreduce(comm, x.T @ residual) - l2 * w
    direction = gradient.copy()
    norm = first = float(gradient @ gradient)
    for _ in range(iterations):
        if norm <= 1e-10 * first:
            break
        step_rows = x @ direction
        curvature = float(allreduce(comm, np.array([step_rows @ step_rows]))[0]) + l2 * float(direction @ direction)
        alpha = norm / curvature
        w += alpha * direction
        residual -= alpha * step_rows
        gradient = allreduce(comm, x.T @ residual) - l2 * w
        last, norm = norm, float(gradient @ gradient)
        direction = gradient + (norm / last) * direction
    return w
