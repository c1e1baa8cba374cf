"""Groups `context` and `stars`: the fields of a review besides its text."""

from __future__ import annotations

import polars as pl

from tasks.stages.features.group import Group, Part


def _context(part: Part) -> pl.DataFrame:
    when = pl.col("timestamp").dt
    return part.reviews.select("verified", month=when.month(), weekday=when.weekday())


CONTEXT = Group(
    name="context",
    says="verified or not, month, weekday",
    columns={
        "verified": "1 verified, 0 not, null unknown",
        "month": "month of the year, 1 to 12",
        "weekday": "day of the week, 1 (Monday) to 7",
    },
    of_part=_context,
)
STARS = Group(
    name="stars",
    says="the review's own stars, for the target helpful only",
    columns={"rating": "the review's own stars, for the target helpful"},
)
