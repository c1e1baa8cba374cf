"""Groups `context` and `stars`: the fields of a review besides its text."""

from __future__ import annotations

import numpy as np

from tasks.stages.features.columns import Columns, as_columns, epoch_ms
from tasks.stages.features.group import Group, Part

DAY_MS = 86_400_000


def _context(part: Part) -> Columns:
    day = epoch_ms(part.reviews["timestamp"]) // DAY_MS
    month = day.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) % 12 + 1
    weekday = (day + 3) % 7 + 1  # 1 January 1970 was a Thursday
    return as_columns({"verified": part.reviews["verified"], "month": month, "weekday": weekday})


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
