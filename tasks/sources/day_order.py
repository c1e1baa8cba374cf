"""Decide for each file whether the day or the month comes first in its dates, by its days above 12.

03/04/2018 fits both orders, 25/04/2018 only one. A profile that lists both orders lets each file decide; a value that
fits both in a file that does not is rejected, never guessed. Where a profile lists one order and most decisive dates of
a file have the other, the file is quarantined: its days up to 12 would change places with months.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.sources import locations
from tasks.sources.file_checks import Unreadable
from tasks.sources.profiles import Profile, TimestampRule
from tasks.sources.settings import ReadConfig
from tasks.sources.time_formats import cut, parsed

if TYPE_CHECKING:
    from tasks.sources.discovery import SourceFile

CONTESTED = "day and month cannot be told apart"
MISREAD = "days up to 12 would be misread"
DECISIVE = 100  # dates that fit one order alone, after which no more are read
ROWS_WITHOUT = 20_000  # rows without a date in either order, after which no more are read
DIRT = 0.01  # share of decisive dates that may have the other order
# 3/25/2018, 25.03.18, 03 25, 2018, and 3\/25\/2018 as PHP writes it in JSON; not the end of 2018-03-25.
_DATE = re.compile(rb"(?<![\d-])\d{1,2}\\?[-/. ]\d{1,2}\\?[-/., ]{1,2}\d{2,4}(?!\d)")


@dataclass(frozen=True)
class Orders:
    """Formats by which comes first, the month or the day: those of a profile and the same in the other order."""

    month_first: tuple[str, ...]
    day_first: tuple[str, ...]

    @classmethod
    def of(cls, formats: Sequence[str]) -> Orders:
        either = {f: other for f in formats if (other := swapped(f))}
        every = list(dict.fromkeys([*either, *either.values()]))
        return cls(tuple(f for f in every if _month_first(f)), tuple(f for f in every if not _month_first(f)))


def swapped(fmt: str) -> str | None:
    """Return the format with day and month in the other order; None where no one writes them so."""
    if fmt.startswith("%Y") or not re.search("%m[^%]%d|%d[^%]%m", fmt):
        return None
    return re.sub("%[md]", lambda m: "%d" if m[0] == "%m" else "%m", fmt)


def _month_first(fmt: str) -> bool:
    return fmt.index("%m") < fmt.index("%d")


def contested(value: pl.Expr, formats: Sequence[str]) -> pl.Expr | None:
    """Mark texts that fit two of these formats, one the other with day and month swapped, and differ in them."""
    pairs = [(f, other) for f in formats if (other := swapped(f)) in formats and _month_first(f) and other]
    marks = [parsed(value, f) != parsed(value, other) for f, other in pairs]
    return pl.any_horizontal(mark.fill_null(False) for mark in marks) if marks else None


def judged(file: SourceFile, start: bytes, profile: Profile, config: ReadConfig) -> SourceFile:
    """Return the file with the formats that its own dates choose. Raises Unreadable if they contradict the profile.

    start: its first bytes, unpacked: a file without such a date there is not read.
    """
    formats = profile.timestamp.formats
    orders, both = Orders.of(formats), [f for f in formats if swapped(f) in formats]
    alone = [f for f in formats if swapped(f) and f not in both]
    if "timestamp" not in profile.columns or not (both or len({_month_first(f) for f in alone}) == 1):
        return file
    if not (
        _is_text(file, profile.columns["timestamp"])
        if file.format == "parquet"
        else _DATE.search(start.replace(b"\0", b""))
    ):
        return file
    month, day, example = _decisive(file, profile, config, orders)
    if both:
        if not month + day or min(month, day) > DIRT * (month + day):
            return file
        kept = tuple(f for f in formats if f not in both or _month_first(f) == (month > day))
        return replace(file, time_formats=kept)
    expects_month = _month_first(alone[0])
    if (day if expects_month else month) > (month if expects_month else day):
        other = swapped(alone[0])
        raise Unreadable(
            f"dates such as {example[expects_month]} fit {other}, not {alone[0]}: {MISREAD}",
            f"add {other} to the profile's timestamp.formats: then each file is judged by its own days above 12",
        )
    return file


def _is_text(file: SourceFile, column: str) -> bool:
    with locations.open_raw(file.path) as raw:
        schema = pq.read_schema(raw)
    kind = schema.field(column).type if column in schema.names else pa.null()
    return not (pa.types.is_temporal(kind) or pa.types.is_primitive(kind) or pa.types.is_null(kind))


def narrowed(profile: Profile, file: SourceFile) -> Profile:
    """Return the profile with the formats that this file chose."""
    if file.time_formats is None:
        return profile
    rule = TimestampRule(**{**profile.timestamp.model_dump(), "formats": file.time_formats})
    return profile.model_copy(update={"timestamp": rule})


def _decisive(
    file: SourceFile, profile: Profile, config: ReadConfig, orders: Orders
) -> tuple[int, int, dict[bool, str]]:
    """Count the dates that fit month-first alone and day-first alone; the first of each, by whether it is day-first."""
    from tasks.sources.file_groups import sample  # it reads files that discovery, which imports this, found

    name = profile.columns["timestamp"]
    reader = profile.model_copy(update={"columns": {"timestamp": name}, "votes": None})
    month = day = rows = fitting = 0
    example: dict[bool, str] = {}
    for batch, _ in sample([file], reader, config, 1 << 62, "reviews"):
        rows += len(batch.frame)
        if name not in batch.frame.columns or batch.frame.schema[name] != pl.String:
            if batch.frame.width:
                break
            continue
        value = cut(pl.col(name), profile.timestamp)
        fits = batch.frame.select(
            value.alias("text"),
            month=pl.any_horizontal(parsed(value, f).is_not_null() for f in orders.month_first),
            day=pl.any_horizontal(parsed(value, f).is_not_null() for f in orders.day_first),
        )
        only_month, only_day = fits.filter(fits["month"] & ~fits["day"]), fits.filter(fits["day"] & ~fits["month"])
        month, day = month + len(only_month), day + len(only_day)
        fitting += int((fits["month"] | fits["day"]).sum())
        for is_day, some in ((False, only_month), (True, only_day)):
            if len(some):
                example.setdefault(is_day, str(some["text"][0]))
        if month + day >= DECISIVE or (rows >= ROWS_WITHOUT and not fitting):
            break
    return month, day, example
