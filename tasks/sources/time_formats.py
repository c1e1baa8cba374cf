"""Formats of times in texts (strptime, as chrono has it), and how a text becomes a time."""

from __future__ import annotations

import re

import polars as pl

from tasks.sources.profiles import TimestampRule

_DATES = ["%Y-%m-%d", "%Y/%m/%d", "%Y%m%d", "%m/%d/%Y", "%d/%m/%Y", "%m/%d/%y", "%d/%m/%y", "%m-%d-%Y", "%d-%m-%Y"]
_DATES += ["%d.%m.%Y", "%d.%m.%y", "%d-%b-%Y", "%d %B %Y", "%B %d, %Y", "%m %d, %Y"]
_CLOCKS = ("", " %H:%M:%S", " %H:%M", " %I:%M %p", " %I:%M:%S %p")
FORMATS = (
    *(date + clock for clock in _CLOCKS for date in _DATES),
    "%Y-%m-%dT%H:%M:%S%.fZ",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%:z",
    "%Y-%m-%d %H:%M:%S%:z",
    "%Y-%m-%dT%H:%M:%S%.f%:z",
    "%Y-%m-%d %H:%M:%S%.f%:z",
    "%Y-%m-%dT%H:%M:%S%.f%z",
    "%Y-%m-%d %H:%M:%S%.f %z",
    "%Y-%m-%d %H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M:%S UTC",
    "%Y-%m-%d %H:%M:%S%.f UTC",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%dT%H:%MZ",
    "%Y%m%dT%H%M%SZ",
    "%a %b %d %H:%M:%S %z %Y",
    "%a %b %d %H:%M:%S UTC %Y",
    "%a %b %d %H:%M:%S %Y",
    "%a, %d %b %Y %H:%M:%S %z",
    "%a, %d %b %Y %H:%M:%S GMT",
    "%d/%b/%Y:%H:%M:%S %z",
    "%A, %B %d, %Y",
    "%B %d, %Y, %I:%M %p",
    "%B %d, %Y, %I:%M:%S %p",
    "%m/%d/%Y, %I:%M:%S %p",
    "%d/%m/%Y, %H:%M:%S",
    "%B, %Y",
    "%B %Y",
    "%Y-%m",
    "%m/%Y",
)
# Dates within sentences, such as "Reviewed in the United States on January 01, 2018".
PATTERNS = (
    r"([A-Z][a-z]{2,8} \d{1,2}, \d{4})",
    r"(\d{1,2} [A-Z][a-z]{2,8} \d{4})",
    r"(\d{4}-\d{2}-\d{2})",
    r"(\d{1,2}/\d{1,2}/\d{4})",
    r"(\d{1,2}\.\d{1,2}\.\d{4})",
)
_DAY, _MONTH = re.compile("%[-_0#]?[djDFesc+]"), re.compile("%[-_0#]?[mbBhjDFsc+]")


def parsed(value: pl.Expr, fmt: str) -> pl.Expr:
    """Parse texts in one format, as UTC; null where one does not fit. Without a day or a month, it means the first."""
    if not _MONTH.search(fmt):
        value, fmt = pl.lit("1 ") + value, f"%m {fmt}"
    if not _DAY.search(fmt):
        value, fmt = pl.lit("1 ") + value, f"%d {fmt}"
    return value.str.to_datetime(fmt, strict=False, time_unit="ms", time_zone="UTC")


def cut(value: pl.Expr, rule: TimestampRule) -> pl.Expr:
    """Return the part of each text that holds the time."""
    return (value.str.extract(rule.pattern, 1) if rule.pattern else value).str.strip_chars()
