"""Find the raw files, as `discovery` does, and let each decide the order of day and month in its dates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.sources import discovery, locations
from tasks.sources.day_order import MISREAD, Orders, month_first, swapped
from tasks.sources.discovery import Quarantined, Source, SourceFile
from tasks.sources.file_checks import Kind, Unreadable
from tasks.sources.file_groups import sample
from tasks.sources.paths import type_at
from tasks.sources.profiles import Profile
from tasks.sources.settings import ReadConfig
from tasks.sources.time_formats import cut, parsed

DECISIVE = 100  # dates that fit one order alone, after which no more are read
ROWS_WITHOUT = 20_000  # rows without a date in either order, after which no more are read
DIRT = 0.01  # share of decisive dates that may have the other order
# 3/25/2018, 25.03.18, 03 25, 2018, and 3\/25\/2018 as PHP writes it in JSON; not the end of 2018-03-25.
_DATE = re.compile(rb"(?<![\d-])\d{1,2}\\?[-/. ]\d{1,2}\\?[-/., ]{1,2}\d{2,4}(?!\d)")


def discover(
    inputs: str | Sequence[str],
    dataset: str,
    config: ReadConfig | None = None,
    kind: Kind = "reviews",
    *,
    rated: bool = True,
) -> Source:
    """Find the files, detect each one's format and order of dates, and hash them. Raises InputError or ProfileError.

    rated: False for reviews that may have no stars.
    """
    return discovery.discover(inputs, dataset, config, kind, judged, rated=rated)


def look(
    file: locations.RawFile, profile: Profile, config: ReadConfig, kind: Kind = "reviews"
) -> tuple[list[SourceFile], list[Quarantined]]:
    """Look at one file as `discover` does, without hashing; returns what is readable and what is not."""
    return discovery.look(file, profile, config, kind, judged)


def judged(file: SourceFile, start: bytes, profile: Profile, config: ReadConfig) -> SourceFile:
    """Return the file with the formats that its own dates choose. Raises Unreadable if they contradict the profile.

    start: its first bytes, unpacked: a file without such a date there is not read, unless its rows may begin later.
    """
    formats = profile.timestamp.formats
    orders, both = Orders.of(formats), [f for f in formats if swapped(f) in formats]
    alone = [f for f in formats if swapped(f) and f not in both]
    if "timestamp" not in profile.columns or not (both or len({month_first(f) for f in alone}) == 1):
        return file
    if not (
        _is_text(file, profile.columns["timestamp"])
        if file.format == "parquet"
        else file.format in ("json-wrapped", "json-columns") or _DATE.search(start.replace(b"\0", b""))
    ):
        return file
    month, day, example = _decisive(file, profile, config, orders)
    if both:
        if not month + day or min(month, day) > DIRT * (month + day):
            return file
        kept = tuple(f for f in formats if f not in both or month_first(f) == (month > day))
        return replace(file, time_formats=kept)
    expects_month = month_first(alone[0])
    if (day if expects_month else month) > (month if expects_month else day):
        other = swapped(alone[0])
        raise Unreadable(
            f"dates such as {example[expects_month]} fit {other}, not {alone[0]}: {MISREAD}",
            f"add {other} to the profile's timestamp.formats: then each file is judged by its own days above 12",
            of_reviews=True,
        )
    return file


def _is_text(file: SourceFile, column: str) -> bool:
    with locations.open_raw(file.path) as raw:
        schema = pq.read_schema(raw)
    kind = type_at(schema, column)
    return kind is not None and not (
        pa.types.is_temporal(kind) or pa.types.is_primitive(kind) or pa.types.is_null(kind)
    )


def _decisive(
    file: SourceFile, profile: Profile, config: ReadConfig, orders: Orders
) -> tuple[int, int, dict[bool, str]]:
    """Count the dates that fit month-first alone and day-first alone; the first of each, by whether it is day-first."""
    name = profile.columns["timestamp"]
    reader = profile.model_copy(update={"columns": {"timestamp": name}, "votes": None})
    month = day = rows = fitting = 0
    example: dict[bool, str] = {}
    for batch, _ in sample([replace(file, own=None)], reader, config, 1 << 62, "reviews"):
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
