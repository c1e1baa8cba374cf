"""Data-parallel logistic regression of several yes-or-no questions at once, by L-BFGS with all-reduced gradients.

For each question k it minimises, over weights w and an intercept b,

    sum over rows of log(1 + exp(z)) - y z  +  l2 / 2 |w|^2,   z = x w + b,

where the rows are spread over ranks and every rank holds the weights. y may also be a share between 0 and 1. An
evaluation takes one product with X and one with its transpose per rank, and one all-reduce of the gradient. The steps
are those of L-BFGS (Nocedal and Wright, Numerical Optimization, 2006, algorithm 7.4), in coordinates in which the
Hessian's diagonal is about one. Word counts need this scaling: a frequent word's curvature is thousands of times a rare
word's, and about forty steps without the scaling reach what ten reach with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from tasks.parallel.allreduce import allreduce
from tasks.parallel.comm import Array, Comm

MEMORY = 6  # pairs of steps and gradient changes that L-BFGS keeps
ENOUGH = 1e-4  # least share of the predicted decrease: Armijo's condition
SMALLEST_STEP = 1e-4
Evaluate = Callable[[Array], tuple[float, Array]]


def fit_logistic(comm: Comm, x: Any, y: Array, *, l2: float, iterations: int, start: Array | None = None) -> Array:
    """Fit at most `iterations` steps. Returns weights (d + 1, k) float32, intercepts last, the same on every rank.

    x: this rank's rows (n, d), any object with `@`, `.T` and `squares()`, which sums each column's squares (d,). y:
    (n, k) in 0..1, NaN for an unknown answer. start: initial weights (d + 1, k), zeros by default.
    """
    known = ~np.isnan(y)
    answers = np.where(known, y, 0).astype(np.float32)
    squares = np.asarray(x.squares(), dtype=np.float64)
    totals = allreduce(comm, np.concatenate([squares, known.sum(0), answers.sum(0, dtype=np.float64)]))
    squares, rows, yes = np.split(totals, [len(squares), len(squares) + y.shape[1]])
    rate = yes / np.maximum(rows, 1)
    spread = np.maximum(rate * (1 - rate), 1e-3)  # the curvature of log(1 + exp(z)) at the rate
    scale = np.empty((len(squares) + 1, y.shape[1]), dtype=np.float32)
    # Half of the diagonal: a row's words share its error, so a full step in each word would overshoot.
    scale[:-1] = np.sqrt(0.5 * squares[:, None] * spread + l2)
    scale[-1] = np.sqrt(np.maximum(rows, 1) * spread)

    def evaluate(u: Array) -> tuple[float, Array]:
        w = u / scale
        z = x @ w[:-1] + w[-1]
        # log(1 + exp(z)) and its slope, without overflow for large |z|.
        small = np.exp(-np.abs(z))
        slope = np.where(z >= 0, 1, small) / (1 + small)
        loss = np.where(known, np.maximum(z, 0) + np.log1p(small) - answers * z, 0).sum(dtype=np.float64)
        error = np.where(known, slope - answers, 0).astype(np.float32)
        gradient = np.empty_like(scale)
        gradient[:-1], gradient[-1] = x.T @ error, error.sum(0)
        gradient = allreduce(comm, gradient)
        gradient[:-1] += l2 * w[:-1]
        penalty = 0.5 * l2 * float((w[:-1].astype(np.float64) ** 2).sum())
        return float(allreduce(comm, np.array([loss]))[0]) + penalty, gradient / scale

    first = np.zeros_like(scale) if start is None else start.astype(np.float32) * scale
    weights: Array = minimize(evaluate, first, iterations) / scale
    return weights


def minimize(evaluate: Evaluate, start: Array, iterations: int) -> Array:
    """Run L-BFGS from `start`; return the last point that lowered the loss. `evaluate` returns loss and gradient."""
    at = start
    loss, gradient = evaluate(at)
    pairs: deque[tuple[Array, Array, float]] = deque(maxlen=MEMORY)
    for _ in range(iterations):
        direction = -_inverse_hessian(pairs, gradient)
        slope = _dot(gradient, direction)
        if slope >= -1e-10 * max(1.0, abs(loss)):  # flat up to rounding
            break
        # The first direction has no scale; later ones have about the right length.
        step = 1.0 if pairs else 1.0 / max(1.0, np.sqrt(-slope))
        while True:
            there = at + np.float32(step) * direction
            new_loss, new_gradient = evaluate(there)
            if new_loss <= loss + ENOUGH * step * slope or step < SMALLEST_STEP:
                break
            # The minimum of the parabola through both losses and the slope here, clipped against wild guesses.
            parabola = -slope * step**2 / (2 * (new_loss - loss - step * slope))
            step = min(max(parabola, 0.1 * step), 0.5 * step)
        if not new_loss < loss:
            break
        moved, turned = there - at, new_gradient - gradient
        curvature = _dot(moved, turned)
        if curvature > 0:
            pairs.append((moved, turned, curvature))
        at, loss, gradient = there, new_loss, new_gradient
    return at


def _inverse_hessian(pairs: deque[tuple[Array, Array, float]], gradient: Array) -> Array:
    """Return the estimated inverse Hessian times the gradient, by the two-loop recursion."""
    q = gradient.copy()
    shares = []
    for moved, turned, curvature in reversed(pairs):
        share = _dot(moved, q) / curvature
        shares.append(share)
        q -= np.float32(share) * turned
    if pairs:
        _, turned, curvature = pairs[-1]
        q *= np.float32(curvature / _dot(turned, turned))
    for (moved, turned, curvature), share in zip(pairs, reversed(shares), strict=True):
        q += np.float32(share - _dot(turned, q) / curvature) * moved
    return q


def _dot(a: Array, b: Array) -> float:
    return float(np.vdot(a, b))
