"""Guess from some of a column's values what it holds: its type in words, times, ratings, pairs of votes.

Guesses are for people to check: `raymill data inspect` prints them, and a run never depends on one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

import polars as pl

from tasks.sources.day_order import swapped
from tasks.sources.rating_guesses import RatingGuess, guess_rating
from tasks.sources.time_formats import FORMATS, MONTHS, PATTERNS, in_english, parsed

LOOKED_AT = 2_000  # values of a column; more would hardly change a guess
MOST = 0.9  # the share of values that must fit a guess: the others are dirt
NULL_WORDS = ("NULL", "null", "None", "NaN", "nan", "N/A", "n/a", "NA", "\\N")
YES, NO = ("y", "yes", "t", "true", "1"), ("n", "no", "f", "false", "0")

Unit = Literal["s", "ms", "us", "ns", "excel"]
_PER_SECOND: dict[Unit, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
_EXCEL_1990 = 32_874


@dataclass(frozen=True)
class Times:
    """How a column's values become times: the `unit` of numbers, the `formats` of texts (strptime), or typed as times.

    `pattern` cuts them out of longer texts; `months` are the names of months in them, if not English. `share` of the
    values can be parsed so. `ambiguous`: no day above 12 tells the day from the month."""

    share: float
    unit: Unit | None = None
    formats: tuple[str, ...] = ()
    ambiguous: bool = False
    pattern: str | None = None
    months: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """A source column. `values` are some of those that are not null, as text or with the file's type."""

    name: str
    values: pl.Series
    null_share: float
    null_words: tuple[str, ...] = ()
    inside: bool = False  # an object: `name` is its path
    counts_rows: bool = False  # each value is one more than the last, from 0 or 1 on in each file

    @classmethod
    def of(cls, name: str, series: pl.Series) -> Column:
        filled = series.drop_nulls()
        words: list[str] = []
        if series.dtype == pl.String:
            filled = filled.filter(filled.str.strip_chars() != "")
            counted = filled.value_counts(name="n").filter(pl.col(series.name).is_in(NULL_WORDS))
            words = sorted(counted[series.name].to_list())
            filled = filled.filter(~filled.is_in(list(NULL_WORDS)))
        share = 1 - len(filled) / len(series) if len(series) else 1.0
        step = max(1, len(filled) // LOOKED_AT)
        values = filled.gather_every(step).head(LOOKED_AT)
        return cls(name, values, share, tuple(words), counts_rows=_counts_rows(filled))

    @cached_property
    def texts(self) -> pl.Series:
        return self.values.cast(pl.String, strict=False).str.strip_chars()

    @cached_property
    def numbers(self) -> pl.Series:
        """The values as Float64, null where one is not a number. Thousands separators are not parsed."""
        if self.values.dtype == pl.Boolean or self.values.dtype.is_temporal():
            return pl.Series([None] * len(self.values), dtype=pl.Float64)
        return self.values.cast(pl.Float64, strict=False) if self.values.dtype.is_numeric() else _numbers(self.texts)

    @property
    def numeric(self) -> bool:
        return _share(self.numbers.is_not_null() & self.numbers.is_finite()) >= MOST

    @property
    def counts(self) -> bool:
        """Whether the values are whole numbers from 0 up, "1,234" included."""
        plain = _numbers(self.texts.str.replace_all(",", "", literal=True))
        return self.values.dtype != pl.Boolean and _share((plain >= 0) & (plain == plain.floor())) >= MOST

    @property
    def rating(self) -> bool:
        """Whether most values are numbers from 1 to 5."""
        return _share(self.numbers.is_between(1, 5)) >= MOST

    @cached_property
    def rating_guess(self) -> RatingGuess | None:
        """How the values become ratings, on any scale and in words, if most can."""
        if self.values.dtype == pl.Boolean or self.values.dtype.is_temporal() or self.values.dtype.is_nested():
            return None
        return guess_rating(self.numbers, self.texts)

    @property
    def pairs(self) -> bool:
        """Whether the values are [helpful, total], as lists or as their text."""
        if self.values.dtype == pl.Boolean or self.values.dtype.is_temporal():
            return False
        return _share(self.texts.str.contains(r"^\[\s*\d+\s*,\s*\d+\s*\]$")) >= MOST

    @property
    def flag(self) -> bool:
        return self.values.dtype == pl.Boolean or (
            len(self.values) > 0 and self.texts.str.to_lowercase().is_in([*YES, *NO]).all()
        )

    @property
    def nested(self) -> bool:
        return self.values.dtype == pl.String and _share(self.texts.str.contains(r"^[\[{].*[\]}]$")) >= MOST

    @cached_property
    def times(self) -> Times | None:
        """How to parse the values as times of 1990 to now, if most of them can be."""
        if isinstance(self.values.dtype, (pl.Date, pl.Datetime)):
            return Times(1.0)
        if self.numeric:
            now = datetime.now(UTC).timestamp() + 86_400
            for unit, per_second in _PER_SECOND.items():
                seconds = self.numbers / per_second
                share = _share(seconds.is_between(_EARLIEST.timestamp(), now))
                if share >= MOST:
                    return Times(share, unit=unit)
            days = self.numbers.is_between(_EXCEL_1990, _EXCEL_1990 + (now - _EARLIEST.timestamp()) / 86_400)
            if re.search("date|time|day|posted|created", self.name, re.I) and _share(days) >= MOST:
                return Times(_share(days), unit="excel")
        if self.values.dtype.is_numeric():
            days = self.numbers.cast(pl.Int64, strict=False)
            whole = _share(self.numbers == days) >= MOST and _share(days.is_between(19_900_000, 22_000_000)) >= MOST
            return _times_of_text(days.cast(pl.String)) if whole else None
        if self.values.dtype != pl.String:
            return None
        return _times_of_text(self.texts) or _times_in_sentences(self.texts) or _times_in_other_words(self.texts)

    @property
    def kind(self) -> str:
        """The type in words."""
        if not len(self.values):
            return "empty"
        if self.values.dtype == pl.Boolean:
            return "true/false"
        if self.times is not None:
            ways = self.times.formats[:1] or ([self.times.unit] if self.times.unit else [])
            return f"time ({ways[0]})" if ways else "time"
        if self.pairs:
            return "pair of numbers"
        if self.counts_rows:
            return "row number"
        if self.nested:
            return "list" if self.texts[0].startswith("[") else "object"
        if self.numeric or self.counts:
            return "whole number" if self.counts else "number"
        return "yes/no" if self.flag else "text"

    @property
    def distinct_share(self) -> float:
        return self.values.n_unique() / len(self.values) if len(self.values) else 0.0

    @property
    def mean_chars(self) -> float:
        return float(self.texts.str.len_chars().mean() or 0)  # type: ignore[arg-type]

    @property
    def id_like(self) -> bool:
        """Whether the values look like ids: several, short, one word with a digit; numbers too long to be counts."""
        one_word = self.texts.str.contains(r"^[^\s\[{]{2,40}$") & self.texts.str.contains(r"\d")
        long_enough = not self.numeric or self.mean_chars >= 4
        return _share(one_word) >= MOST and long_enough and self.values.n_unique() > 1 and not self.flag

    @cached_property
    def ascends(self) -> bool:
        """Whether the values are numbers, each above the last: positions rather than identities."""
        steps = self.numbers.diff().drop_nulls()
        return self.counts_rows or (len(steps) > 20 and self.numeric and bool((steps > 0).all()))

    @property
    def example(self) -> str:
        """A short value among the first, as text, control characters included."""
        texts = self.texts.head(50).drop_nulls().to_list()
        return next((t for t in texts if len(t) <= 40), min(texts, key=len, default=""))


def series_of(name: str, values: Sequence[Any]) -> pl.Series:
    """Make a Series of JSON values: typed if all are of one plain type, else as JSON text."""
    try:
        series = pl.Series(name, values, strict=True)
        if not (series.dtype.is_nested() or series.dtype == pl.Object):
            return series
    except (TypeError, OverflowError, ValueError, pl.exceptions.PolarsError):
        pass
    texts = [v if v is None or isinstance(v, str) else json.dumps(v, ensure_ascii=False, default=str) for v in values]
    clean = [t.encode("utf-8", "replace").decode() if isinstance(t, str) else None for t in texts]
    return pl.Series(name, clean, dtype=pl.String)


def _counts_rows(values: pl.Series) -> bool:
    """Whether these values number the rows they stand in."""
    if len(values) < 3 or not (values.dtype.is_integer() or values.dtype == pl.String):
        return False
    numbers = values.cast(pl.Int64, strict=False)
    # It begins again in each file, and rejected rows leave gaps.
    return numbers[0] in (0, 1) and _share(numbers.diff().drop_nulls() == 1) >= 0.95 and numbers.null_count() == 0


def _numbers(texts: pl.Series) -> pl.Series:
    return texts.cast(pl.Float64, strict=False)


def _share(holds: pl.Series) -> float:
    return float(holds.fill_null(False).mean() or 0) if len(holds) else 0.0  # type: ignore[arg-type]


def _times_of_text(texts: pl.Series) -> Times | None:
    """Find formats that together parse most texts, the one that parses the most first."""
    if _share(texts.str.contains(r"\d.*\d")) < MOST or _share(texts.str.len_chars() <= 40) < MOST:
        return None
    understood = {f: _understood(texts, f) for f in FORMATS}
    covered = pl.Series([False] * len(texts))
    chosen: list[str] = []
    for _ in range(4):  # 1st, 2nd, 3rd, 4th
        best = max(FORMATS, key=lambda f: int((understood[f] & ~covered).sum()))
        if (understood[best] & ~covered).mean() < 0.005:  # type: ignore[operator]
            break
        chosen.append(best)
        covered = covered | understood[best]
    share = _share(covered)
    if share < MOST:
        return None
    first = chosen[0]
    other = swapped(first)
    same = other in understood and bool((understood[first] == understood[other]).all())
    return Times(share, formats=tuple(chosen), ambiguous=same)


def _times_in_sentences(texts: pl.Series) -> Times | None:
    """Find a pattern that cuts a date out of most texts; they are sentences, not ids."""
    sentences = texts.str.contains(r"\pL\s+\pL|日\pL") & (texts.str.len_chars() <= 120)
    if _share(sentences) < MOST:
        return None
    for pattern in PATTERNS:
        dates = texts.str.extract(pattern, 1)
        if _share(dates.is_not_null()) >= MOST and (times := _times_of_text(dates)):
            return replace(times, pattern=pattern)
    return None


def _times_in_other_words(texts: pl.Series) -> Times | None:
    """Find dates with names of months in another language than English."""
    for months in MONTHS:
        if _share(texts.str.contains(f"(?i){'|'.join(months)}") & texts.str.contains(r"\d")) >= MOST:
            english = texts.to_frame("t").select(in_english(pl.col("t"), months)).to_series()
            if times := _times_of_text(english) or _times_in_sentences(english):
                return replace(times, months=tuple(months))
    return None


def _understood(texts: pl.Series, fmt: str) -> pl.Series:
    """Whether each text is a time of 1990 to now in this format. A two-digit year read as four digits is not."""
    try:
        moments = texts.to_frame("t").select(parsed(pl.col("t"), fmt)).to_series()
    except pl.exceptions.PolarsError:
        return pl.Series([False] * len(texts))
    latest = datetime.now(UTC).replace(microsecond=0)
    return moments.is_between(_EARLIEST, latest).fill_null(False)
