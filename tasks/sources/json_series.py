"""Make columns of the values of JSON records, so that no value depends on its neighbours."""

from __future__ import annotations

import json
import math
from typing import Any

import polars as pl


def series_of(values: list[Any], pairs: bool, numeric: bool) -> pl.Series:
    """Make a Series: values of one type unchanged; of several types, or of one that no column holds, as JSON text.

    What is finally parsed from a value does not depend on its neighbours. An infinity is null outside numbers."""
    kinds = set(map(type, values)) - {type(None)}
    if float in kinds and not numeric:
        values = [(str(v) if math.isfinite(v) else None) if type(v) is float else v for v in values]
        kinds = (kinds - {float}) | {str}
    if len(kinds) <= 1 and kinds <= {str, int, float, bool, *([list] if pairs else [])}:
        try:
            series = pl.Series(values=values, strict=True)
        except (TypeError, OverflowError, pl.exceptions.PolarsError):
            pass
        else:
            if kinds != {list} or (isinstance(series.dtype, pl.List) and series.dtype.inner.is_integer()):
                return series
    return pl.Series(values=[_text(v) for v in values], dtype=pl.String)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
