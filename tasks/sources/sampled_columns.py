"""Join the columns of samples from several files, whatever their types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from tasks.sources.canonical import in_years
from tasks.sources.column_guesses import series_of


def joined(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return the rows of all plain frames. A column becomes text if its types have nothing in common."""
    try:
        return pl.concat(frames, how="diagonal_relaxed")
    except pl.exceptions.PolarsError:
        kinds: dict[str, set[Any]] = {}
        for frame in frames:
            for name, kind in frame.schema.items():
                kinds.setdefault(name, set()).add(kind)
        mixed = {name for name, found in kinds.items() if len(found - {pl.Null()}) > 1}
        texts = [frame.with_columns(pl.col(c).cast(pl.String) for c in frame.columns if c in mixed) for frame in frames]
        return pl.concat(texts, how="diagonal_relaxed")


def dated(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame without the times that no date can show."""
    return frame.with_columns([_dated(column) for column in frame if isinstance(column.dtype, pl.Datetime)])


def plain(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame whose columns can all become text."""
    return frame.with_columns([_plain(column) for column in frame])


def _plain(column: pl.Series) -> pl.Series:
    """Return a column that can become text: nested and binary values as text, times without those no date can show."""
    kind = column.dtype
    if isinstance(kind, pl.Datetime):
        return _dated(column)
    if kind.is_numeric() or kind.is_temporal() or kind in (pl.String, pl.Boolean, pl.Null, pl.Categorical, pl.Enum):
        return column
    values = [v.decode(errors="replace") if isinstance(v, bytes) else v for v in column.to_list()]
    return series_of(column.name, values)


def _dated(column: pl.Series) -> pl.Series:
    return column.zip_with(in_years(column).fill_null(True), pl.Series([None], dtype=column.dtype))
