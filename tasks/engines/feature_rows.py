"""The rows of feature files that XGBoost learns from, a row group at a time, checked for values that it cannot take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tasks.algorithms.sampling import stride
from tasks.core.errors import InputError
from tasks.engines.feature_files import LABEL, Slab, arrays, slabs


@dataclass
class Rows:
    """The rows of one rank, or one in `every`, a row group at a time. XGBoost iterates five times, reading anew.

    problem: the error of the first unusable row group. Iteration ends before it, so that this rank still takes part in
    building the matrix and can report to the others afterwards.
    """

    slabs: Sequence[Slab]
    features: Sequence[str]
    every: int = 1
    problem: InputError | None = None
    _checked: set[Slab] = field(default_factory=set)

    def walk(self) -> Iterator[tuple[Any, Any]]:
        seen = 0
        for slab in self.slabs:
            batch = arrays(slab.read([*self.features, LABEL]), self.features)
            if slab not in self._checked:
                if problem := infinite(slab, self.features, *batch):
                    self.problem = problem
                    return
                self._checked.add(slab)
            if self.every > 1:
                batch = tuple(a[-seen % self.every :: self.every].copy() for a in batch)
                seen += slab.stop - slab.start
            yield batch


def infinite(slab: Slab, features: Sequence[str], x: Any, y: Any) -> InputError | None:
    """Return an error naming the first infinite feature, or the first label that is not finite; None if all is well."""
    # An infinite value is a feature's least or greatest; nulls are NaN, and ignored.
    with np.errstate(invalid="ignore"):
        bad = [i for i in range(len(features)) if len(y) and np.isinf(x[:, i]).any()]
    what = f"the feature {features[bad[0]]!r} holds an infinite value" if bad else ""
    if not what and not np.isfinite(y).all():
        what = f"the column {LABEL!r} holds a value that is not a number"
    if not what:
        return None
    column = x[:, bad[0]] if bad else y
    row = slab.start + int(np.flatnonzero(np.isinf(column) if bad else ~np.isfinite(column))[0])
    return InputError(
        f"{what} (row {row:,} of row group {slab.group})",
        where=str(slab.file),
        fix="fix the stage that made it: an unknown value must be null",
    )


def read_slices(
    slices: Sequence[Sequence[Path]], features: Sequence[str], max_rows: int
) -> tuple[InputError | None, list[list[tuple[Any, Any]]]]:
    """Read each slice as batches of arrays; returns the first error, if any, and the batches of each slice.

    Of a slice with more than `max_rows` rows, a sample of at most so many is read, evenly spread.
    """
    batches_of_slices = []
    for files in slices:
        own = slabs(list(files))
        total = sum(slab.stop - slab.start for slab in own)
        rows = Rows(own, list(features), every=stride(total, max_rows))
        batches_of_slices.append(list(rows.walk()))
        if rows.problem:
            return rows.problem, []
    return None, batches_of_slices
