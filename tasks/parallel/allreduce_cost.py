"""What an all-reduce costs: counts from each algorithm's text, times three constants of the machine.

    time = steps alpha + moved n beta + added n gamma

alpha: seconds a message takes whatever its length; beta: seconds a byte sent takes to arrive; gamma: seconds a byte
takes to be added. The counts are those of the rank that does most (Hockney's model, 1994; Chan et al., 2007).

Ranks that share cores do not work at the same time: with W ranks on C cores, all ranks' work over C may be more than
the busiest rank's, and the larger counts. That is why an algorithm that halves the busiest rank's traffic may win
nothing on a laptop and much on a cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import NamedTuple

import numpy as np

from tasks.parallel.comm import Array


class Counts(NamedTuple):
    """Messages, and bytes moved and added in units of n, of one rank or of all."""

    steps: float
    moved: float
    added: float


class Machine(NamedTuple):
    """Constants in seconds, and seconds a byte; cores: that the ranks share, none if each has its own."""

    alpha: float
    beta: float
    gamma: float
    cores: int | None = None


@dataclass(frozen=True)
class Measurement:
    algorithm: str
    world: int
    nbytes: int
    seconds: float


def naive(world: int) -> tuple[Counts, Counts]:
    all_ranks = Counts(2 * (world - 1), 2 * (world - 1), world - 1)
    return all_ranks, all_ranks  # the root has part in every message


def tree(world: int) -> tuple[Counts, Counts]:
    depth = ceil(log2(world))
    return Counts(2 * depth, 2 * depth, depth), naive(world)[1]


def exchange(world: int) -> tuple[Counts, Counts]:
    size, depth, folded = _fold(world)
    extra = 1 if folded else 0
    return (
        Counts(depth + 2 * extra, depth + 2 * extra, depth + extra),
        Counts(size * depth + 2 * folded, size * depth + 2 * folded, size * depth + folded),
    )


def ring(world: int) -> tuple[Counts, Counts]:
    busiest = Counts(2 * (world - 1), 2 * (world - 1) / world, (world - 1) / world)
    return busiest, Counts(*(world * count for count in busiest))


def rabenseifner(world: int) -> tuple[Counts, Counts]:
    size, depth, folded = _fold(world)
    extra = 1 if folded else 0
    share = (size - 1) / size
    return (
        Counts(2 * depth + 2 * extra, 2 * share + 2 * extra, share + extra),
        Counts(2 * size * depth + 2 * folded, 2 * (size - 1) + 2 * folded, size - 1 + folded),
    )


def direct(world: int) -> tuple[Counts, Counts]:
    """Two barriers; n bytes copied in and out, (W - 1)/W n added. Of one block: longer arrays have more barriers."""
    depth = ceil(log2(world))
    busiest = Counts(2 * depth, 2, (world - 1) / world)
    return busiest, Counts(*(world * count for count in busiest))


COUNTS: dict[str, Callable[[int], tuple[Counts, Counts]]] = {
    "naive": naive,
    "tree": tree,
    "exchange": exchange,
    "ring": ring,
    "rabenseifner": rabenseifner,
    "direct": direct,
}


def predict(algorithm: str, world: int, nbytes: float, machine: Machine) -> float:
    """Return seconds for an all-reduce of `nbytes` by `world` ranks."""
    steps, moved, added = effective(algorithm, world, machine.cores)
    return steps * machine.alpha + nbytes * (moved * machine.beta + added * machine.gamma)


def effective(algorithm: str, world: int, cores: int | None) -> Counts:
    """Return the busiest rank's counts, or all ranks' over the cores that they share if these are more."""
    busiest, in_all = COUNTS[algorithm](world)
    if cores is None:
        return busiest
    return Counts(*(max(one, every / cores) for one, every in zip(busiest, in_all, strict=True)))


def fit(measured: Sequence[Measurement], gamma: float, cores: int) -> Machine:
    """Fit alpha and beta to the measurements: the least sum of squared logarithms of prediction over measurement.

    gamma is measured apart: adding and moving grow with the same n, so a fit could not tell them from each other.
    """
    from scipy.optimize import least_squares

    counts = np.array([effective(m.algorithm, m.world, cores) for m in measured])
    sizes, seconds = (np.array([getattr(m, name) for m in measured], dtype=float) for name in ("nbytes", "seconds"))

    def misfit(logs: Array) -> Array:
        alpha, beta = np.exp(logs)
        steps, moved, added = counts.T
        misfits: Array = np.log((steps * alpha + sizes * (moved * beta + added * gamma)) / seconds)
        return misfits

    alpha, beta = np.exp(least_squares(misfit, np.log([1e-4, 1e-9]), xtol=1e-12, ftol=1e-12).x)
    return Machine(float(alpha), float(beta), gamma, cores)


def _fold(world: int) -> tuple[int, int, int]:
    """Return the largest power of two within the world, its logarithm, and how many ranks are left over."""
    depth = world.bit_length() - 1
    return 1 << depth, depth, world - (1 << depth)
