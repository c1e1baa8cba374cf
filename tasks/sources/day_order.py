"""Decide for each file whether the day or the month comes first in its dates, by its days above 12.

03/04/2018 fits both orders, 25/04/2018 only one. A profile that lists both orders lets each file decide; a value that
fits both in a file that does not is rejected, never guessed. Where a profile lists one order and most decisive dates of
a file have the other, the file is quarantined: its days up to 12 would change places with months.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from tasks.sources.profiles import Profile, TimestampRule
from tasks.sources.time_formats import parsed

CONTESTED = "day and month cannot be told apart"
MISREAD = "days up to 12 would be misread"


@dataclass(frozen=True)
class Orders:
    """Formats by which comes first, the month or the day: those of a profile and the same in the other order."""

    month_first: tuple[str, ...]
    day_first: tuple[str, ...]

    @classmethod
    def of(cls, formats: Sequence[str]) -> Orders:
        either = {f: other for f in formats if (other := swapped(f))}
        every = list(dict.fromkeys([*either, *either.values()]))
        return cls(tuple(f for f in every if month_first(f)), tuple(f for f in every if not month_first(f)))


def swapped(fmt: str) -> str | None:
    """Return the format with day and month in the other order; None where no one writes them so."""
    if fmt.startswith("%Y") or not re.search("%m[^%]%d|%d[^%]%m", fmt):
        return None
    return re.sub("%[md]", lambda m: "%d" if m[0] == "%m" else "%m", fmt)


def month_first(fmt: str) -> bool:
    return fmt.index("%m") < fmt.index("%d")


def contested(value: pl.Expr, formats: Sequence[str]) -> pl.Expr | None:
    """Mark texts that fit two of these formats, one the other with day and month swapped, and differ in them."""
    pairs = [(f, other) for f in formats if (other := swapped(f)) in formats and month_first(f) and other]
    marks = [parsed(value, f) != parsed(value, other) for f, other in pairs]
    return pl.any_horizontal(mark.fill_null(False) for mark in marks) if marks else None


def narrowed(profile: Profile, formats: tuple[str, ...] | None) -> Profile:
    """Return the profile with the formats that a file chose; None: all."""
    if formats is None:
        return profile
    rule = TimestampRule(**{**profile.timestamp.model_dump(), "formats": formats})
    return profile.model_copy(update={"timestamp": rule})
