"""How far a night's reviews are from a model's reference, column by column and slice by slice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from tasks.algorithms.distances import kolmogorov_smirnov, population_stability_index, psi_by_chance
from tasks.algorithms.reweighting import Cells
from tasks.domain.losses import overall
from tasks.stages.reference.layout import Reference
from tasks.stages.reference.measures import WHOLE, Measured

# psi: population stability index, missing values a bin of their own; by_chance: about that of two samples as large of
# one distribution; ks: Kolmogorov and Smirnov's distance of the values that are there. missing: shares.
DRIFT = pa.schema(
    [
        pa.field("slice", pa.string(), nullable=False),
        pa.field("column", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("reference_rows", pa.int64(), nullable=False),
        pa.field("psi", pa.float64(), nullable=False),
        pa.field("by_chance", pa.float64(), nullable=False),
        pa.field("ks", pa.float64(), nullable=False),
        pa.field("missing", pa.float64(), nullable=False),
        pa.field("reference_missing", pa.float64(), nullable=False),
        pa.field("mean", pa.float64()),
        pa.field("reference_mean", pa.float64()),
    ]
)
# share: of the night's rows. loss: the model's on the reference's rows of the slice, null without any. effect: by how
# much the changed share moves the mean row loss, (share - reference_share)(loss of the slice - loss of all).
SLICES = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("slice", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("share", pa.float64(), nullable=False),
        pa.field("reference_share", pa.float64(), nullable=False),
        pa.field("loss", pa.float64()),
        pa.field("effect", pa.float64()),
    ]
)


def drift(measured: Measured, reference: Reference, least: int) -> pa.Table:
    """Return DRIFT of the whole, and of each slice with at least so many rows on both sides."""
    records = []
    for i, name in enumerate(reference.about.ruler.slices):
        for column, counts in measured.counts.items():
            before, now = reference.counts.get((name, column)), counts[i].tolist()
            if before is None or not sum(now) or (name != WHOLE and min(sum(before), sum(now)) < least):
                continue
            means = _mean(now, measured.totals[column][i]), _mean(before, reference.totals[name, column])
            records.append(
                _compared(name, column, now, before) | dict(zip(("mean", "reference_mean"), means, strict=True))
            )
    return pa.Table.from_pylist(records, schema=DRIFT)


def _compared(name: str, column: str, now: list[int], before: list[int]) -> dict[str, Any]:
    return {
        "slice": name,
        "column": column,
        "rows": sum(now),
        "reference_rows": sum(before),
        "psi": population_stability_index(before, now),
        "by_chance": psi_by_chance(before, now),
        "ks": kolmogorov_smirnov(before[:-1], now[:-1]),
        "missing": now[-1] / sum(now),
        "reference_missing": before[-1] / sum(before),
    }


def _mean(counts: list[int], total: float) -> float | None:
    there = sum(counts[:-1])
    return float(total) / there if there else None


def slices(measured: Measured, reference: Reference) -> pa.Table:
    """Return SLICES: every slice of the reference, by kind."""
    about, cells = reference.about, reference.cells
    records = []
    for d, (kind, names) in enumerate(about.ruler.levels.items()):
        now = np.bincount(measured.levels[:, d][measured.levels[:, d] >= 0], minlength=len(names))
        before, lost = _by_level(cells, d, len(names))
        for i, name in enumerate(names):
            share, reference_share = now[i] / max(measured.rows, 1), before[i] / before.sum()
            loss = float(lost[i] / before[i]) if before[i] else None
            effect = None if loss is None else float((share - reference_share) * (loss - cells.mean))
            record = {"kind": kind, "slice": name, "rows": int(now[i]), "share": share, "effect": effect}
            shown = None if loss is None else overall(about.metric, loss)
            records.append(record | {"reference_share": reference_share, "loss": shown})
    return pa.Table.from_pylist(records, schema=SLICES)


def _by_level(cells: Cells, dimension: int, levels: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    place = cells.levels[:, dimension]
    return np.bincount(place, cells.rows, levels), np.bincount(place, cells.sums, levels)
