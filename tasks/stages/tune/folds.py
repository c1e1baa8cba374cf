"""The rows that trials learn from and are compared on: the two slices, or several time-ordered folds of both.

A few hundred validation rows rank trials by chance. Where the validation slice is small, the later half of all rows is
cut into folds, and each is predicted by a model of all rows before it (evaluation on a rolling origin: Tashman, 2000),
so that many more rows compare the trials, none of them with a model that knows a later row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tasks.core.errors import InputError
from tasks.engines.feature_files import column, slabs
from tasks.engines.feature_rows import read_slices

Array = np.ndarray[Any, Any]
Batches = list[tuple[Array, Array]]  # ((n, f) features, (n,) labels)
Fold = tuple[Batches, Batches]  # to learn from, and to be compared on


def read_folds(
    slices: Sequence[Sequence[Path]], features: Sequence[str], max_rows: int, folds: int
) -> tuple[InputError | None, list[Fold]]:
    """Read the train and the validation slice as `folds` folds; returns the first error, or None, and the folds.

    max_rows: of a slice, at most so many rows are read, evenly spread; slices that are cut into folds have no more.
    """
    problem, both = read_slices(slices, features, max_rows)
    if both and folds > 1:
        rows = [batch for batches in both for batch in batches]
        x, y = (np.concatenate(part) for part in zip(*rows, strict=True))
        times = np.concatenate([column(slabs(list(files)), "timestamp") for files in slices])
        if in_order := list(time_ordered(x, y, times, folds)):
            return None, in_order
    return problem, [(both[0], both[1])] if both else []


def time_ordered(x: Array, y: Array, times: Array, folds: int) -> Iterator[Fold]:
    """Cut the later half of the rows into at most so many folds of about equal size, the earlier rows before each.

    Rows of the same moment stay together. No fold if all rows are of one moment.
    """
    order = np.argsort(times, kind="stable")
    times = times[order]
    marks = np.linspace(len(y) / 2, len(y), folds + 1).astype(int)[:-1]
    starts = [s for s in dict.fromkeys(np.searchsorted(times, times[marks]).tolist()) if s]
    for start, end in pairwise([*starts, len(y)]):
        yield [(x[order[:start]], y[order[:start]])], [(x[order[start:end]], y[order[start:end]])]
