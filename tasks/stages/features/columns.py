"""Columns of features: (n,) float32 arrays by name, NaN where a value is unknown.

A call of Polars takes tens of microseconds, one of NumPy about one: for a single review that decides. So what computes
features returns arrays, for one row as for a million, and Polars gets them where they are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

Columns = dict[str, NDArray[np.float32]]


def as_columns(found: pl.DataFrame | Mapping[str, Any]) -> Columns:
    """Return the columns of a frame, or arrays or series by name; a null becomes NaN."""
    named = found.to_dict() if isinstance(found, pl.DataFrame) else found
    return {name: _float32(column) for name, column in named.items()}


def _float32(column: Any) -> NDArray[np.float32]:
    if isinstance(column, pl.Series):
        column = column.cast(pl.Float32).to_numpy()
    return np.asarray(column, np.float32)


def as_series(columns: Columns) -> dict[str, pl.Series]:
    """Return them as Polars has them: null where unknown."""
    return {name: pl.Series(name, column, pl.Float32, nan_to_null=True) for name, column in columns.items()}


def stacked_columns(pieces: Sequence[Columns], names: Sequence[str]) -> Columns:
    """Join the rows of several pieces, perhaps of none."""
    if len(pieces) == 1:
        return pieces[0]
    return {name: np.concatenate([np.zeros(0, np.float32), *(piece[name] for piece in pieces)]) for name in names}


def epoch_ms(times: pl.Series) -> NDArray[np.int64]:
    """Return (n,) milliseconds since 1970 of timestamps without nulls."""
    return times.to_numpy().astype("datetime64[ms]").astype(np.int64)
