"""The stage `arrivals`: reviews cut by the time they arrived."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np
import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.stages.arrivals import ArrivalsConfig, arrivals
from tests.support.stage_runs import made, put_reviews

pytestmark = pytest.mark.usefixtures("ray_session")
FIRST = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = [*np.arange(20) / 2, *(10 + np.arange(10) * 0.4), *(25 + np.arange(10) * 0.4)]  # nothing from day 14 to 25


def cut(store: SnapshotStore, days: Sequence[float], by: Literal["time", "reviews"], nights: int = 4) -> Snapshot:
    """Reviews of these days in two parts, neither of them in order of time."""
    rows = [{"timestamp": FIRST + timedelta(days=float(day)), "text": str(day)} for day in days]
    raw = put_reviews(store, rows[1::2], rows[::2])
    return made(store, arrivals, [raw], ArrivalsConfig(nights=nights, known=0.5, by=by)).snapshot


@pytest.mark.parametrize(("by", "arrived"), [("time", [20, 10, 0, 0, 10]), ("reviews", [20, 5, 5, 5, 5])])
def test_nights_have_equal_times_or_equally_many_reviews(
    store: SnapshotStore, by: Literal["time", "reviews"], arrived: list[int]
) -> None:
    found = cut(store, DAYS, by)
    nights, until = [pl.read_parquet(file) for file in found.files()], found.facts["until"]
    assert [len(rows) for rows in nights] == arrived
    assert sorted(float(text) for rows in nights for text in rows["text"]) == sorted(DAYS)
    for number, rows in enumerate(nights):
        times = rows["timestamp"].dt.epoch("ms")
        assert (times < until[number]).all()
        assert number == 0 or (times >= until[number - 1]).all()
    if by == "time":
        assert np.ptp(np.diff(until)) <= 1  # ms
    in_order = [*DAYS[1:20:2], *DAYS[:20:2]]  # of the raw reviews
    assert [float(text) for text in nights[0]["text"]] == in_order


def test_reviews_of_one_time_cannot_be_cut(store: SnapshotStore) -> None:
    with pytest.raises(InputError, match="of one time"):
        cut(store, [0.0] * 5 + [9.0] * 15, "time")
