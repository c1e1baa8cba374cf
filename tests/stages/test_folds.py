"""The folds of a search: which rows learn, and which are compared."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.stages.tune.folds import time_ordered


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(1, 6))
def test_folds_predict_the_later_half_once_from_strictly_earlier_rows(moments: list[int], folds: int) -> None:
    times = np.array(moments)
    x, y = np.arange(len(times), dtype=np.float32)[:, None], np.arange(len(times), dtype=np.float32)
    cut = list(time_ordered(x, y, times, folds))
    assert len(cut) <= folds
    compared: list[int] = []
    for learn, compare in cut:
        before, after = (batches[0][1].astype(int) for batches in (learn, compare))
        assert min(len(before), len(after)) > 0
        assert times[before].max() < times[after].min()
        assert sorted([*before, *after]) == [i for i in np.arange(len(times)) if times[i] <= times[after].max()]
        assert all((batches[0][0][:, 0] == batches[0][1]).all() for batches in (learn, compare))
        compared += after.tolist()
    assert len(set(compared)) == len(compared)
    if len(set(moments)) == len(moments) > 1:
        assert len(compared) == len(moments) - len(moments) // 2


def test_rows_of_one_moment_make_no_fold() -> None:
    assert not list(time_ordered(np.zeros((8, 1)), np.zeros(8), np.zeros(8), 3))
