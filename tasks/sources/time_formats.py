"""Formats of times in texts (strptime, as chrono has it), and how a text becomes a time."""

from __future__ import annotations

import re
from collections.abc import Sequence

import polars as pl

from tasks.sources.profiles import TimestampRule

_DATES = ["%Y-%m-%d", "%Y/%m/%d", "%Y%m%d", "%m/%d/%Y", "%d/%m/%Y", "%m/%d/%y", "%d/%m/%y", "%m-%d-%Y", "%d-%m-%Y"]
_DATES += ["%d.%m.%Y", "%d.%m.%y", "%d-%b-%Y", "%d-%b-%y", "%d %B %Y", "%B %d, %Y", "%m %d, %Y", "%d. %B %Y"]
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
    "%Y-%m-%d %H:%M:%S,%3f",
    "%Y年%m月%d日",
    "%A, %B %d, %Y",
    "%A, %d %B %Y",
    "%b. %d, %Y",
    "%d de %B de %Y",
    *(f"%d{nth} %B %Y" for nth in ("st", "nd", "rd", "th")),
    *(f"%B %d{nth}, %Y" for nth in ("st", "nd", "rd", "th")),
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
    r"(\d{1,2}\. [A-Z][a-z]{2,8} \d{4})",
    r"(\d{1,2} de [A-Z][a-z]{2,8} de \d{4})",
    r"(\d{4}年\d{1,2}月\d{1,2}日)",
    r"(\d{4}-\d{2}-\d{2})",
    r"(\d{1,2}/\d{1,2}/\d{4})",
    r"(\d{1,2}\.\d{1,2}\.\d{4})",
)
_ENGLISH, *MONTHS = [
    names.split()
    for names in (
        "January February March April May June July August September October November December",
        "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
        "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
        "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
        "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
        "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro",
        "januari februari maart april mei juni juli augustus september oktober november december",
    )
]
_MS_PER_UNIT = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6, "excel": 86_400e3}
_EXCEL_EPOCH = 25_569  # 1970-01-01 as a day of Excel, whose day 0 is 1899-12-30
_DAY, _MONTH = re.compile("%[-_0#]?[djDFesc+]"), re.compile("%[-_0#]?[mbBhjDFsc+]")


def parsed(value: pl.Expr, fmt: str) -> pl.Expr:
    """Parse texts in one format, as UTC; null where one does not fit. Without a day or a month, it means the first."""
    if not _MONTH.search(fmt):
        value, fmt = pl.lit("1 ") + value, f"%m {fmt}"
    if not _DAY.search(fmt):
        value, fmt = pl.lit("1 ") + value, f"%d {fmt}"
    return value.str.to_datetime(fmt, strict=False, time_unit="ms", time_zone="UTC")


def cut(value: pl.Expr, rule: TimestampRule) -> pl.Expr:
    """Return the part of each text that holds the time, the names of its months in English."""
    value = in_english(value, rule.months) if rule.months else value
    return (value.str.extract(rule.pattern, 1) if rule.pattern else value).str.strip_chars()


def in_english(value: pl.Expr, months: Sequence[str]) -> pl.Expr:
    """Replace the names of the twelve months, in any case."""
    # Of two names that fit at one place, such as "mai" and "maio", the first given is taken: the longest first.
    pairs = sorted(zip(months, _ENGLISH, strict=True), key=lambda pair: -len(pair[0]))
    names, english = ([pair[i] for pair in pairs] for i in (0, 1))
    return value.str.replace_many(names, english, ascii_case_insensitive=True, leftmost=True)


def moment_of(number: pl.Expr, unit: str) -> pl.Expr:
    """Return numbers in this unit as times in UTC."""
    if unit == "excel":
        number = ((number - _EXCEL_EPOCH) * _MS_PER_UNIT[unit]).round() / _MS_PER_UNIT[unit]
    # Float64 is exact to the millisecond for 285,000 years.
    return (number * _MS_PER_UNIT[unit]).floor().cast(pl.Int64, strict=False).cast(pl.Datetime("ms", "UTC"))
