"""What scoring knows of a user or item at a time: to the last bit what the training features knew at that time."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tasks.parallel.exchange import exchange_in_process, stacked
from tasks.parallel.key_hash import hashed
from tasks.stages.features import past_aggregates
from tasks.stages.features.columns import as_series
from tasks.stages.features.past_aggregates import KNOWN, READ
from tasks.stages.features.past_state import STATE, PastState, state_of

reviews = st.lists(
    st.fixed_dictionaries(
        {
            "user_id": st.sampled_from(["a", "b", "ü", "a much longer name"]),
            "ms": st.integers(0, 6),
            "rating": st.sampled_from([1.0, 2.5, 4.0, 4.3, 5.0]),
            "votes": st.one_of(st.none(), st.tuples(st.integers(0, 3), st.integers(3, 9))),
        }
    ),
    min_size=1,
    max_size=25,
)


def block(rows: list[dict[str, Any]]) -> pa.Table:
    votes = [row["votes"] or (None, None) for row in rows]
    return pa.table(
        {
            "user_id": [row["user_id"] for row in rows],
            "timestamp": pa.array([row["ms"] * 86_400_000 for row in rows], pa.int64()).cast(pa.timestamp("ms", "UTC")),
            "rating": pa.array([row["rating"] for row in rows], pa.float32()),
            "helpful_votes": pa.array([v[0] for v in votes], pa.int32()),
            "total_votes": pa.array([v[1] for v in votes], pa.int32()),
        }
    ).select(["user_id", *READ])


def known(state: PastState, names: list[str | None], ms: Any) -> pl.DataFrame:
    keys = pl.Series(names, dtype=pl.String)
    return pl.DataFrame(as_series(state.known(hashed(keys), ms, keys.is_not_null().to_numpy())))


@given(rows=reviews, day=st.integers(0, 7))
def test_a_state_knows_at_any_later_time_what_the_features_knew(rows: list[dict[str, Any]], day: int) -> None:
    table, since = block(rows), day * 86_400_000
    split = partial(past_aggregates.split_by_key, key="user_id")
    (answers,) = exchange_in_process([table], split, past_aggregates.answer_past, 2)
    right = pl.DataFrame(past_aggregates.in_row_order(table, "user_id", answers, list(KNOWN)))

    cumulative = past_aggregates.cumulative(stacked(split(table, 1)))
    state = state_of(cumulative, since)
    ms = np.array([row["ms"] * 86_400_000 for row in rows])
    found = known(PastState(pl.DataFrame(pl.from_arrow(state))), table["user_id"].to_pylist(), ms)
    late = pl.Series(ms >= since)
    assert found.filter(late).equals(right.filter(late), null_equal=True)
    assert len(state) <= len({row["user_id"] for row in rows}) + sum(ms >= since)


def test_nobody_and_somebody_new_are_unknown_and_an_empty_state_knows_nobody() -> None:
    table = block([{"user_id": "a", "ms": 1, "rating": 5.0, "votes": None}])
    cumulative = past_aggregates.cumulative(stacked(past_aggregates.split_by_key(table, 1, "user_id")))
    state = PastState(pl.DataFrame(pl.from_arrow(state_of(cumulative, 0))))
    found = known(state, ["a", "new", None, "a"], np.array([2, 2, 2, 1]) * 86_400_000)
    assert found["count"].to_list() == [1, 0, None, 0]
    assert found["mean"].to_list() == [5, None, None, None]
    assert found["days_since_last"].to_list() == [1, None, None, None]
    nothing = PastState(pl.DataFrame(pl.from_arrow(STATE.empty_table())))
    assert known(nothing, ["a"], np.array([5]))["mean"].to_list() == [None]


def test_the_hash_of_a_name_is_fixed() -> None:
    """It stands in registered models, which outlive the version of any library."""
    assert hashed(pl.Series(["", "A1B2", "ü"])).tolist() == [0, 10932830159588302138, 2652480977916767931]
