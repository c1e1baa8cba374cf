"""Gaussian process regression: estimate the mean and uncertainty of a smooth function from noisy values at points.

Matern 5/2 kernel with one length scale per dimension, plus white noise; maximum a posteriori hyper-parameters.
Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006): algorithm 2.1, equations 4.17 and 5.9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

JITTER = 1e-6  # added to the diagonal, so that the matrix is invertible in spite of equal points
# Standard deviations of the priors on the logarithms of variance, lengths and noise, around their expected values.
SPREAD_VARIANCE, SPREAD_LENGTH, SPREAD_NOISE = 1.0, 0.8, 1.5
EXPECTED_NOISE = 1e-3  # for values of variance 1


class Kernel(NamedTuple):
    """The kernel of values scaled to mean 0 and variance 1. `lengths`: (d,), in the units of the points."""

    variance: float
    lengths: Any
    noise: float

    def __call__(self, a: Any, b: Any) -> Any:
        """Return (n, m) covariances of the function, without noise, between points (n, d) and (m, d)."""
        r = np.sqrt(5 * (((a[:, None] - b) / self.lengths) ** 2).sum(-1))
        return self.variance * (1 + r + r * r / 3) * np.exp(-r)


class Surprise:
    """The negative log posterior of the logarithms of (variance, lengths, noise), up to a constant."""

    def __init__(self, x: Any, y: Any, expected_lengths: Any) -> None:
        x = np.asarray(x, np.float64)
        self.y = scaled(y)[0]
        self.apart = (x[:, None] - x) ** 2
        self.expected = np.log([1.0, *expected_lengths, EXPECTED_NOISE])
        self.spread = np.array([SPREAD_VARIANCE, *[SPREAD_LENGTH] * x.shape[1], SPREAD_NOISE])

    def __call__(self, logs: Any) -> tuple[float, Any]:
        """Return the value and its gradient (d + 2,) at the logarithms (d + 2,)."""
        variance, lengths, noise = np.exp(logs[0]), np.exp(logs[1:-1]), np.exp(logs[-1])
        r = np.sqrt(5 * (self.apart @ lengths**-2))
        decay = variance * np.exp(-r)
        smooth = (1 + r + r * r / 3) * decay
        covariance = smooth.copy()
        covariance[np.diag_indices(len(r))] += noise + JITTER
        root = cho_factor(covariance, lower=True, check_finite=False)
        weights = cho_solve(root, self.y)
        off = (logs - self.expected) / self.spread
        value = 0.5 * self.y @ weights + np.log(np.diag(root[0])).sum() + 0.5 * off @ off
        rest = cho_solve(root, np.eye(len(r))) - np.outer(weights, weights)
        by_length = np.einsum("ij,ijk->k", rest * (5 / 3 * (1 + r) * decay), self.apart) / lengths**2
        gradient = 0.5 * np.array([np.vdot(rest, smooth), *by_length, np.trace(rest) * noise])
        return value, gradient + off / self.spread


def fit(x: Any, y: Any, expected_lengths: Any, steps: int = 20) -> Kernel:
    """Fit the kernel of highest posterior density by at most `steps` steps of L-BFGS. x: (n, d), y: (n,)."""
    surprise = Surprise(x, y, expected_lengths)
    limits = [(m - 4 * s, m + 4 * s) for m, s in zip(surprise.expected, surprise.spread, strict=True)]
    least = minimize(
        surprise, surprise.expected, jac=True, method="L-BFGS-B", bounds=limits, options={"maxiter": steps}
    )
    parameters = np.exp(least.x)
    return Kernel(float(parameters[0]), parameters[1:-1], float(parameters[-1]))


def scaled(y: Any) -> tuple[Any, float, float]:
    """Scale values to mean 0 and variance 1; return them, their mean and their standard deviation (1 if all equal)."""
    y = np.asarray(y, np.float64)
    mean, deviation = float(y.mean()), float(y.std()) if np.ptp(y) > 0 else 1.0
    return (y - mean) / deviation, mean, deviation


@dataclass
class GaussianProcess:
    """The posterior after values y, (n,), at points x, (n, d)."""

    kernel: Kernel
    x: Any
    y: Any

    def __post_init__(self) -> None:
        self.x = np.asarray(self.x, np.float64)
        values, self.mean, self.deviation = scaled(self.y)
        covariance = self.kernel(self.x, self.x)
        covariance[np.diag_indices(len(self.x))] += self.kernel.noise + JITTER
        self.root = cho_factor(covariance, lower=True)
        self.weights = cho_solve(self.root, values)

    def predict(self, x: Any) -> tuple[Any, Any]:
        """Predict the function's mean and standard deviation, (m,) each, without noise, at points (m, d)."""
        between = self.kernel(np.asarray(x, np.float64), self.x)
        explained = (between * cho_solve(self.root, between.T).T).sum(1)
        deviation = np.sqrt(np.maximum(self.kernel.variance - explained, JITTER))
        return between @ self.weights * self.deviation + self.mean, deviation * self.deviation
