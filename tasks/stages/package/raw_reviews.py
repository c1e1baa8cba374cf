"""Bring raw reviews into the canonical columns that scoring reads, with a clear error for those that cannot be.

`user_id`, `item_id`, `text` (which may be null) and `timestamp` must be there; `title`, `verified` and `category` may
be missing or null, and so may the stars, unless the target takes them for a feature. Ids and categories mean what they
mean to `tasks.sources.canonical`: without white space around them, 12.0 as 12, and an empty one is none. A time is a
timestamp, an ISO 8601 text (DATE), or a number of milliseconds since 1970. A time without a zone is UTC.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa

from tasks.core.errors import InputError
from tasks.domain.ids import id_of
from tasks.domain.schemas import REVIEWS
from tasks.stages.package.layout import About

SCHEMA = {name: pl.Series(pa.array([], REVIEWS.field(name).type)).dtype for name in REVIEWS.names}
REQUIRED = ("user_id", "item_id", "text", "timestamp")
NAMES = ("user_id", "item_id", "category")
# What pandas' columns of objects and lists of dicts raise where values have several types.
MIXED = (TypeError, ValueError, pl.exceptions.PolarsError)
UTC_MS = pl.Datetime("ms", "UTC")
# A day, or a day and a time, extended or basic; seconds, their fraction and the zone may be missing.
DATE = (
    r"^\s*(\d{4})-?(\d\d)-?(\d\d)"
    r"(?:(?:T|\s+)(\d\d):?(\d\d)(?::?(\d\d)(?:[.,](\d{1,9})\d*)?)?\s*([Zz]|[+-]\d\d(?::?\d\d)?)?)?\s*$"
)
EARLIEST, LATEST = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 1000 for year in (1990, 2100))  # of numbers


def canonical(reviews: Any, about: About) -> pl.DataFrame:
    """Return the columns of `tasks.domain.schemas.REVIEWS`, in the order of the rows.

    Raises InputError for a missing column, a value of the wrong type or a null where none may be, and names them.
    """
    frame = _frame(reviews)
    required = (*REQUIRED, "rating") if "stars" in about.groups else REQUIRED
    if missing := [name for name in required if name not in frame.columns]:
        raise InputError(
            f"the reviews have no column {', '.join(missing)}",
            where=f"columns: {', '.join(frame.columns[:20])}",
            fix="rename the columns, or read files by a profile that does: raymill score --dataset PROFILE",
        )
    columns = {name: _typed(frame, name, kind) for name, kind in SCHEMA.items()}
    for name in set(required) - {"text"}:  # a review without a text is one of stars alone
        if nulls := columns[name].null_count():
            row = columns[name].is_null().arg_true()[0]
            raise InputError(f"{nulls:,} reviews have no {name}", where=f"row {row} of {len(frame):,}")
    return pl.DataFrame(columns).with_columns(pl.col("review_id", "title", "text").fill_null(""))


def _frame(reviews: Any) -> pl.DataFrame:
    if isinstance(reviews, pl.DataFrame):
        return reviews
    if isinstance(reviews, pa.Table):
        return pl.DataFrame(pl.from_arrow(reviews))
    try:
        return _converted(reviews)
    except MIXED as error:
        raise InputError(f"the reviews cannot be read: {_first_line(error)}", where=_unreadable(reviews)) from None


def _converted(reviews: Any) -> pl.DataFrame:
    if isinstance(reviews, list):
        return pl.DataFrame(reviews, infer_schema_length=None)
    return pl.DataFrame(pl.from_pandas(reviews))


def _unreadable(reviews: Any) -> str:
    """Name the first column that cannot be converted alone, as one of values of several types."""
    if isinstance(reviews, list):
        rows = [row for row in reviews if isinstance(row, dict)]
        columns = {name: [{name: row.get(name)} for row in rows] for name in dict.fromkeys(n for r in rows for n in r)}
    else:
        columns = {name: reviews[[name]] for name in getattr(reviews, "columns", ())}
    for name, column in columns.items():
        try:
            _converted(column)
        except MIXED:
            return f"column {name}"
    return ""


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _typed(frame: pl.DataFrame, name: str, kind: Any) -> pl.Series:
    if name not in frame.columns:
        return pl.Series(name, [None], dtype=kind).new_from_index(0, len(frame)).alias(name)
    given = frame[name]
    try:
        if name == "timestamp":
            return _times(given)
        return _names(given) if name in NAMES else given.cast(kind)
    except pl.exceptions.PolarsError as error:
        reason = f"{name} cannot be read as {kind}: {_first_line(error)}"
        raise InputError(reason, where=f"column {name}, {given.dtype}") from None


def _names(given: pl.Series) -> pl.Series:
    """Read ids or categories; null where one is empty."""
    column = pl.col(given.name)
    if given.name == "category":
        number = column.fill_nan(None) if given.dtype.is_float() else column
        text = number.cast(pl.String).str.strip_chars()
    else:
        text = id_of(given.dtype, column)
    return given.to_frame().select(pl.when(text != "").then(text).alias(given.name)).to_series()


def _times(given: pl.Series) -> pl.Series:
    if given.dtype == pl.String:
        found = _iso_8601(given)
        _refuse(given.filter(found.is_null() & given.is_not_null()), "timestamp cannot be read as ISO 8601")
        return found
    if given.dtype.is_numeric():
        given = given.fill_nan(None) if given.dtype.is_float() else given
        wrong = given.filter(~given.is_between(EARLIEST, LATEST))
        seconds = bool(len(wrong)) and EARLIEST <= 1000 * wrong[0] < LATEST
        looks = ", and this looks like seconds: multiply by 1000" if seconds else ""
        _refuse(wrong, f"timestamp: milliseconds since 1970 expected, of the years 1990 to 2099{looks}")
    if isinstance(given.dtype, pl.Datetime) and given.dtype.time_zone is None:
        given = given.dt.replace_time_zone("UTC")
    return given.cast(UTC_MS)


def _iso_8601(given: pl.Series) -> pl.Series:
    """Parse texts; null where one is no time."""
    year, month, day, hour, minute, second, fraction, zone = (
        given.str.extract_groups(DATE).struct.unnest().get_columns()
    )
    whole = pl.select(
        pl.format(
            "{}-{}-{}T{}:{}:{}.{}{}",
            *(year, month, day),
            *(part.fill_null("00") for part in (hour, minute, second)),
            fraction.fill_null("0"),
            zone.fill_null("Z").str.to_uppercase(),
        )
    ).to_series()
    return whole.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", time_unit="ms", time_zone="UTC", strict=False)


def _refuse(wrong: pl.Series, why: str) -> None:
    if len(wrong):
        shown = json.dumps(str(wrong[0])[:80]) if wrong.dtype == pl.String else wrong[0]
        raise InputError(f"{why}: {shown}", where=f"column timestamp, {len(wrong):,} values")
