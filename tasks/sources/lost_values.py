"""Count values of optional columns that a usable row loses, as they cannot be parsed or contradict each other.

The rating is optional in reviews that are to be scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.sources.profiles import Profile

PARSED = ("helpful_votes", "total_votes", "verified")


def lost_values(
    frame: pl.DataFrame, numbers: np.ndarray, kept: pa.Table, rejected: pa.Table, profile: Profile
) -> Counter[str]:
    """Return, by canonical column, the values in the usable rows of `frame` that are null in `kept`."""
    usable = frame.filter(~np.isin(numbers, rejected["row"].to_numpy())) if rejected.num_rows else frame
    lost: Counter[str] = Counter()
    for name in PARSED if profile.needs_rating else (*PARSED, "rating"):
        source = profile.columns.get(name)
        if profile.votes and "votes" in name:
            source = profile.votes.pair
        if source not in usable.columns or name in profile.defaults:
            continue
        values = usable[source].drop_nulls()
        if values.dtype.is_float():
            values = values.drop_nans()
        if values.dtype == pl.String:
            values = values.filter((values.str.strip_chars() != "") & ~values.is_in(list(profile.nulls)))
        lost[name] = max(0, len(values) - (kept.num_rows - kept[name].null_count))
    return +lost


def in_words(lost: Mapping[str, int]) -> list[str]:
    """Describe each count, for people."""
    votes = " (no whole number, or more helpful votes than votes)"
    return [f"{n:,} values of {name} unknown{votes if 'votes' in name else ''}" for name, n in sorted(lost.items())]
