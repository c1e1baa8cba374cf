"""What was known of each user, item, category or brand at any time from a day on, for scoring new reviews.

A state is what `past_aggregates.cumulative` gives, in part: of each key the last time before `since`, which sums up
all earlier ones, and every time after it. So a review written at `since` or later gets the same numbers, to the last
bit, as `past_aggregates.answer_past` gives it among all reviews. Keys are hashed (`tasks.parallel.key_hash`): half the
bytes, and no names in the tables. Two of ten million names share a hash with a probability of 3e-6.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from tasks.algorithms.hash_index import HashIndex
from tasks.parallel.key_hash import hashed
from tasks.stages.features.columns import Columns
from tasks.stages.features.past_aggregates import SUMS, known_from

STATE = pa.schema(
    [pa.field("key", pa.uint64(), nullable=False), pa.field("ms", pa.int64(), nullable=False)]
    + [pa.field(name, pa.float64() if name in ("total", "squares") else pa.int64(), nullable=False) for name in SUMS]
    + [pa.field("last", pa.float64(), nullable=False), pa.field("first_ms", pa.int64(), nullable=False)]
)


def state_of(cumulative: pl.DataFrame, since: int) -> pa.Table:
    """Return the rows of STATE, sorted by key and time. since: ms."""
    later = pl.col("ms").shift(-1).over("key")
    kept = cumulative.filter((pl.col("ms") >= since) | (later >= since) | later.is_null())
    keys = pl.Series("key", hashed(kept["key"]), dtype=pl.UInt64)
    return kept.with_columns(keys).sort("key", "ms").select(STATE.names).to_arrow().cast(STATE)


class PastState:
    """Look up STATE by key and time."""

    def __init__(self, state: pl.DataFrame) -> None:
        key = state["key"].to_numpy()
        self.starts = np.flatnonzero(np.append(True, key[1:] != key[:-1])[: len(key)])
        self.ends = np.append(self.starts[1:], len(key))
        self.index = HashIndex(key[self.starts].view(np.int64))
        self.ms = state["ms"].to_numpy()
        sums = state.select(*SUMS, "last", "first_ms", last_ms="ms")
        self.names = sums.columns
        # One more row: of what is unknown.
        self.sums = np.append(sums.cast(pl.Float64).to_numpy(), np.full((1, len(self.names)), np.nan), axis=0)

    def known(self, keys: NDArray[np.uint64], ms: NDArray[np.int64], some: NDArray[np.bool_]) -> Columns:
        """Return the columns KNOWN of hashed keys (n,) before the times (n,), NaN where there is no key: not `some`."""
        before = np.take(self.sums, self._before(keys, ms), axis=0)
        known = known_from(dict(zip(self.names, before.T, strict=True)), ms)
        if some.all():
            return known
        return {name: np.where(some, column, np.float32(np.nan)) for name, column in known.items()}

    def _before(self, keys: NDArray[np.uint64], ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row of each key's last time before `ms`, that of nulls for none: binary searches, all in step."""
        group = self.index.find(keys.view(np.int64))
        met = group >= 0
        low, high = np.zeros(len(keys), np.int64), np.zeros(len(keys), np.int64)
        low[met], high[met] = self.starts[group[met]], self.ends[group[met]]
        first = low.copy()
        while len(open_ := np.flatnonzero(low < high)):
            middle = (low[open_] + high[open_]) // 2
            earlier = self.ms[middle] < ms[open_]
            low[open_[earlier]] = middle[earlier] + 1
            high[open_[~earlier]] = middle[~earlier]
        return np.where(met & (low > first), low - 1, len(self.ms))
