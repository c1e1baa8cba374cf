"""What a mean loss would be in another mix of rows, if it stayed the same within each kind of row.

The rows whose losses are known fall into cells: combinations of one level in each of several dimensions, such as (short
text, known user). Of the other rows only the margins are known: the share of each level. `rake` finds weights for the
cells with which their margins are those of the other rows (raking, or iterative proportional fitting: Deming and
Stephan, On a Least Squares Adjustment of a Sampled Frequency Table, 1940; as calibration of survey weights: Deville and
Särndal, 1992). `price` is the weighted mean, the importance-weighted estimate of the loss under covariate shift
(Shimodaira, 2000): Σ w n L / Σ w n. It holds as far as the loss depends on the dimensions alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
ROUNDS, CLOSE = 200, 1e-10


@dataclass(frozen=True)
class Cells:
    """k cells of rows with known losses. levels: (k, d), the number of each cell's level in each of d dimensions; rows,
    sums, squares: (k,), how many rows it has, the sum of their losses and that of the squared losses."""

    levels: Array
    rows: Array
    sums: Array
    squares: Array

    @property
    def mean(self) -> float:
        """The mean loss of all rows as they are."""
        return float(self.sums.sum() / self.rows.sum())

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        rows = float(self.rows.sum())
        return float(np.sqrt(max(float(self.squares.sum()) / rows - self.mean**2, 0.0) / rows))


@dataclass(frozen=True)
class Price:
    """The mean loss expected in the other mix, and the standard error of its difference from the mean as it is.

    effective_rows: how many equally weighted rows would tell as much, (Σ w)² / Σ w² (Kish, Survey Sampling, 1965).
    unmet: the largest difference that is left between a wanted and a met share.
    """

    mean: float
    error: float
    effective_rows: float
    unmet: float


def rake(cells: Cells, margins: Sequence[Array]) -> tuple[Array, float]:
    """Return (k,) weights of a row in each cell, with which the cells have these margins, and what is left unmet.

    margins: for each dimension the (levels,) shares that are wanted, of any sum. A level that no cell has gets nothing,
    and the other shares are scaled up; a dimension of which only such levels are wanted has no say. Where no
    weights meet all margins, those of the last round come near.
    """
    weights, unmet = np.ones(len(cells.rows)), 0.0
    wanted = ((d, _wanted(cells.levels[:, d], shares)) for d, shares in enumerate(margins))
    targets = [(d, shares / shares.sum()) for d, shares in wanted if shares.sum() > 0]
    for _ in range(ROUNDS):
        unmet = 0.0
        for d, target in targets:
            held: Array = np.bincount(cells.levels[:, d], weights * cells.rows, len(target)).astype(np.float64)
            held = held / (held.sum() or 1.0)
            unmet = max(unmet, float(np.abs(held - target).max()))
            factors = np.divide(target, held, out=np.zeros_like(held), where=held > 0)
            weights = weights * factors[cells.levels[:, d]]
            if not (weights * cells.rows).sum() > 0:  # the margins exclude each other
                return np.ones(len(cells.rows)), 1.0
        if unmet < CLOSE:
            break
    return weights, unmet


def _wanted(levels: Array, shares: Array) -> Array:
    """Return the (levels,) shares, 0 of a level that no cell has."""
    there = np.bincount(levels, minlength=len(shares)) > 0
    wanted: Array = np.where(there, shares, 0.0).astype(np.float64)
    return wanted


def price(cells: Cells, margins: Sequence[Array], rows: int) -> Price:
    """Return the mean loss that is expected of `rows` rows with these margins. rows: at least 1.

    The error has two parts: the losses of the known rows vary, Σ (w/Σwn - 1/N)² Σᵢ (Lᵢ - m)², and so does the mix by
    chance, Σ q (L̄ - m)² / rows, with the cells' shares q and mean losses L̄. Rows in an unchanged mix have only the
    second.
    """
    weights, unmet = rake(cells, margins)
    weighted, total = weights * cells.rows, float(cells.rows.sum())
    share = weighted / weighted.sum()
    mean = float((share * cells.sums / cells.rows).sum())
    around = (cells.squares - 2 * mean * cells.sums + mean**2 * cells.rows).clip(0)  # Σ (L - m)² of each cell
    known = float(((weights / weighted.sum() - 1 / total) ** 2 * around).sum())
    mixed = float((share * (cells.sums / cells.rows - mean) ** 2).sum()) / max(rows, 1)
    effective = float(weighted.sum() ** 2 / (weights**2 * cells.rows).sum())
    return Price(mean, float(np.sqrt(known + mixed)), effective, unmet)
