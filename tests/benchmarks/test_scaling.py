"""The numbers that the scaling tables are read by."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scaling import amdahl, balance, karp_flatt, percentiles


@given(st.floats(0, 0.9), st.floats(0.1, 100), st.sets(st.integers(1, 64), min_size=2))
def test_amdahls_own_curve_gives_its_serial_fraction_back(serial: float, alone: float, workers: set[int]) -> None:
    seconds = {p: alone * (serial + (1 - serial) / p) for p in workers}
    fitted = amdahl(seconds)
    assert fitted == pytest.approx((alone, serial), rel=1e-6, abs=1e-6)
    for p in workers - {1}:
        assert karp_flatt(alone / seconds[p], p) == pytest.approx(serial, abs=1e-9)


def test_a_perfect_speed_up_has_no_serial_part_and_none_at_all_has_nothing_else() -> None:
    assert karp_flatt(4.0, 4) == 0
    assert karp_flatt(1.0, 4) == 1


def test_a_tail_is_a_value_that_occurred() -> None:
    assert percentiles([1.0] * 99 + [50.0]) == {"p50": 1.0, "p95": 1.0, "p99": 50.0}


def test_balance_is_one_where_all_are_as_busy() -> None:
    assert balance([2.0, 2.0]) == 1
    assert balance([4.0, 0.0]) == 2
