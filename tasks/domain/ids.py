"""Read ids as texts, without what spreadsheets and data frames add to them."""

from __future__ import annotations

import re

import polars as pl

# A byte order mark within joined files; ="0012", which keeps Excel from making a number of it; 12.0, as pandas writes
# whole numbers in a column with gaps: in the next file, without gaps, the same id is 12.
_ADDED = r'^\uFEFF?(?:="(.*)"|([0-9]+)\.0|(.*))$'
_HAS_ADDED = r'^\uFEFF|^="|\.0$'


def plain(text: str) -> str:
    """Return one id as `id_of` returns a column of them."""
    text = text.strip()
    return re.sub(_ADDED, lambda m: "".join(group or "" for group in m.groups()), text)


def id_of(kind: pl.DataType, value: pl.Expr) -> pl.Expr:
    """Return ids as texts without white space around them; null where there is none."""
    if kind == pl.String:
        text = value.str.strip_chars()
        return pl.when(text.str.contains(_HAS_ADDED)).then(text.str.replace(_ADDED, "$1$2$3")).otherwise(text)
    if kind.is_float():
        value = pl.when(value.is_finite()).then(value)
        whole = pl.when(value == value.floor()).then(value).cast(pl.Int64, strict=False)
        return pl.coalesce(whole.cast(pl.String), value.cast(pl.String))
    return value.cast(pl.String, strict=False).str.strip_chars()
