"""Measure reviews by a reference: the bins of each column, and the slices that each row is in.

Both sides are measured by the same functions: the test slice when the reference is made, and a night's reviews. The
slices are evaluation's (`tasks.stages.evaluate.slices`) as far as they can be told without stars and from the model's
own features, and tenths of the prediction, since errors differ most by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from tasks.stages.evaluate.settings import EvaluateConfig
from tasks.stages.evaluate.slices import memberships

Array = np.ndarray[Any, Any]
PREDICTION, CATEGORY = "prediction", "category"
WHOLE, OTHERS = "all", "other categories"
SLICED_BY = ("n_chars", "user_count", "item_count", "verified")  # features that evaluation's slices are made of
TENTHS = 10
# Rows of a column by bin, ascending, the last of the missing; `total`: the sum of the values that are there.
HISTOGRAMS = pa.schema(
    [
        pa.field("slice", pa.string(), nullable=False),
        pa.field("column", pa.string(), nullable=False),
        pa.field("counts", pa.list_(pa.int64()), nullable=False),
        pa.field("total", pa.float64(), nullable=False),
    ]
)


class Ruler(BaseModel):
    """What reviews are measured by.

    edges: the upper borders of each column's bins, ascending; above the last one is one more bin. tenths: borders of
    the slices of the prediction. levels: the slices of each kind. evaluate: the settings behind evaluation's slices.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    edges: dict[str, list[float]]
    tenths: list[float]
    levels: dict[str, list[str]]
    evaluate: EvaluateConfig

    @property
    def slices(self) -> list[str]:
        """The whole, then the slices of each kind: the rows of `Measured.counts`."""
        return [WHOLE, *(name for of_kind in self.levels.values() for name in of_kind)]


@dataclass(frozen=True)
class Measured:
    """n rows measured. counts: {column: (slices, bins + 1)}, the last of the missing; totals: {column: (slices,)};
    levels: (n, kinds) places in `Ruler.levels`, -1 for a slice that the reference has not."""

    counts: dict[str, Array]
    totals: dict[str, Array]
    levels: Array

    @property
    def rows(self) -> int:
        return len(self.levels)

    def margins(self, ruler: Ruler) -> list[Array]:
        """Return (slices,) rows in each slice of each kind."""
        kinds = zip(self.levels.T, ruler.levels.values(), strict=True)
        return [np.bincount(column[column >= 0], minlength=len(of_kind)) for column, of_kind in kinds]

    def table(self, ruler: Ruler) -> pa.Table:
        """Return HISTOGRAMS, without the slices that have no row."""
        records = [
            {"slice": name, "column": column, "counts": counts[i].tolist(), "total": float(self.totals[column][i])}
            for column, counts in self.counts.items()
            for i, name in enumerate(ruler.slices)
            if counts[i].sum()
        ]
        return pa.Table.from_pylist(records, schema=HISTOGRAMS)


def ruler_of(rows: pl.DataFrame, features: Sequence[str], evaluate: EvaluateConfig, bins: int) -> Ruler:
    """Return a ruler with the quantiles of these rows' features and prediction, and with their slices."""
    edges = {name: _quantiles(rows[name], bins) for name in (*features, PREDICTION)}
    # Rounded as they are named, so that two slices never have one name.
    tenths = sorted({float(f"{border:.4g}") for border in _quantiles(rows[PREDICTION], TENTHS)})
    named = _kinds(rows, [name for name in SLICED_BY if name in features], evaluate)
    levels = {kind: sorted(named[kind].unique().to_list()) for kind in named.columns}
    if len(levels[CATEGORY]) > evaluate.categories:
        counted = named[CATEGORY].value_counts().sort(["count", CATEGORY], descending=[True, False])
        levels[CATEGORY] = [*sorted(counted[CATEGORY].head(evaluate.categories).to_list()), OTHERS]
    return Ruler(edges=edges, tenths=tenths, levels=levels | {PREDICTION: _names_of(tenths)}, evaluate=evaluate)


def measure(rows: pl.DataFrame, ruler: Ruler) -> Measured:
    """Measure rows that have the ruler's columns and `category`."""
    levels = _levels(rows, ruler)
    counts, totals = {}, {}
    for name, edges in ruler.edges.items():
        values, there = _numbers(rows[name])
        home = np.where(there, np.searchsorted(edges, values, side="left"), len(edges) + 1)
        counts[name], totals[name] = _by_slice(home, values, levels, ruler, bins=len(edges) + 2)
    return Measured(counts, totals, levels)


def add_up(parts: Sequence[Measured]) -> Measured:
    """Add up what was measured of several parts, at least one, by one ruler."""
    first, *others = parts
    counts, totals = dict(first.counts), dict(first.totals)
    for part in others:
        counts = {name: counts[name] + part.counts[name] for name in counts}
        totals = {name: totals[name] + part.totals[name] for name in totals}
    return Measured(counts, totals, np.concatenate([part.levels for part in parts]))


def _by_slice(home: Array, values: Array, levels: Array, ruler: Ruler, bins: int) -> tuple[Array, Array]:
    """Count rows by bin, and add up values, of all rows and of each slice."""
    counts, totals = [np.bincount(home, minlength=bins)[None]], [np.array([values.sum()])]
    for column, of_kind in zip(levels.T, ruler.levels.values(), strict=True):
        known = column >= 0
        joint = np.bincount(column[known] * bins + home[known], minlength=len(of_kind) * bins)
        counts.append(joint.reshape(len(of_kind), bins))
        totals.append(np.bincount(column[known], values[known], len(of_kind)))
    return np.concatenate(counts), np.concatenate(totals)


def _levels(rows: pl.DataFrame, ruler: Ruler) -> Array:
    """Return (n, kinds) places of each row's slices in the ruler's levels."""
    named = _kinds(rows, [name for name in SLICED_BY if name in ruler.edges], ruler.evaluate)
    names = _names_of(ruler.tenths)
    tenth = np.searchsorted(ruler.tenths, _numbers(rows[PREDICTION])[0], side="left")
    named = named.with_columns(pl.Series(PREDICTION, names).gather(tenth).alias(PREDICTION))
    columns = []
    for kind, of_kind in ruler.levels.items():
        other = of_kind.index(OTHERS) if OTHERS in of_kind else -1
        places = named[kind].replace_strict(of_kind, list(range(len(of_kind))), default=other, return_dtype=pl.Int64)
        columns.append(places.to_numpy())
    return np.stack(columns, axis=1)


def _kinds(rows: pl.DataFrame, sliced_by: Sequence[str], evaluate: EvaluateConfig) -> pl.DataFrame:
    """Return the slice of each row, a column for each of evaluation's kinds that need no stars."""
    columns = [pl.col(name).cast(pl.Float32).fill_nan(None) for name in sliced_by]
    kinds = memberships(rows.select(CATEGORY, *columns, rating=pl.lit(None, pl.Float32)), (), evaluate)
    kinds = kinds.drop(WHOLE, "stars")
    return kinds.with_columns(pl.col(kind).fill_null(f"{kind} unknown") for kind in kinds.columns)


def _names_of(tenths: Sequence[float]) -> list[str]:
    if not tenths:
        return ["any prediction"]
    between = [f"prediction {low:.4g} to {high:.4g}" for low, high in pairwise(tenths)]
    return [f"prediction up to {tenths[0]:.4g}", *between, f"prediction above {tenths[-1]:.4g}"]


def _quantiles(column: pl.Series, bins: int) -> list[float]:
    """Return the different borders of `bins` bins with about equally many rows; none for a column without values."""
    values, there = _numbers(column)
    if not there.any():
        return []
    borders: list[float] = np.unique(np.quantile(values[there], np.arange(1, bins) / bins, method="lower")).tolist()
    return borders


def _numbers(column: pl.Series) -> tuple[Array, Array]:
    """Return (n,) float64, 0 where a value is missing or not finite, and (n,) whether it is there."""
    values = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    there = np.isfinite(values)
    return np.where(there, values, 0.0), there
