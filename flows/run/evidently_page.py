"""Evidently's own report of a night's drift, on request: `watch.evidently`, with the extra `evidently`.

Both sides are made from the histograms of the reference and of the watch: each column's values stand at their bins'
upper borders, and those above the last border just above it. So no review is kept for it, and a column's distribution
is right to the width of a bin; nothing is said of several columns together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tasks.core.errors import SettingsError
from tasks.core.snapshots import Snapshot
from tasks.stages.reference.layout import COUNTS, Reference
from tasks.stages.reference.measures import WHOLE
from tasks.stages.score.registered import RegisteredModel

FOLDER = "evidently"  # below the root of the scoring runs
EXTRA = 'pip install --constraint constraints.txt --editable ".[evidently]"'


def check_installed() -> None:
    """Raise SettingsError unless Evidently can be imported."""
    if find_spec("evidently") is None:
        raise SettingsError("Evidently is not installed", where="watch.evidently", fix=EXTRA)


def write(model: RegisteredModel, watched: Snapshot, root: Path, night: str) -> Path | None:
    """Write the page of a night below `root`; returns where, None for a night that was not measured."""
    rows = [row for row in watched.read(COUNTS).to_pylist() if row["slice"] == WHOLE]
    reference = Reference.load(model.folder)
    if reference is None or not rows:
        return None
    edges = reference.about.ruler.edges
    before = {name: reference.counts[WHOLE, name] for name in edges}
    page = root / FOLDER / f"{night}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    report(values(before, edges), values({row["column"]: row["counts"] for row in rows}, edges), page)
    return page


def values(counts: Mapping[str, Sequence[int]], edges: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return a column of numbers, NaN for missing ones, with as many values in each bin as were counted."""
    return {name: np.repeat(_places(edges[name]), of_column) for name, of_column in counts.items()}


def _places(edges: Sequence[float]) -> np.ndarray[Any, Any]:
    above = [np.nextafter(np.float32(edges[-1]), np.float32(np.inf))] if edges else [0.0]
    return np.array([*edges, *above, np.nan], np.float64)


def report(reference: Mapping[str, Any], current: Mapping[str, Any], page: Path) -> None:
    """Write the page; a column without a value on one side is left out."""
    import pandas as pd
    from evidently import Report
    from evidently.presets import DataDriftPreset

    there = [name for name in reference if np.isfinite(reference[name]).any() and np.isfinite(current[name]).any()]
    sides = [pd.DataFrame({name: side[name] for name in there}) for side in (current, reference)]
    Report([DataDriftPreset()]).run(*sides).save_html(str(page))
