"""Hashing whole arrays of integers gives what dictionaries give."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.algorithms.hash_index import HashIndex, first_slots

# Multiples of 2^40 share their slots in any table that a test makes; small ones stand side by side.
some = st.integers(0, 9) | st.integers(0, 9).map(lambda i: i << 40) | st.integers(-(1 << 63), (1 << 63) - 1)


@given(st.lists(some, unique=True, max_size=60), st.lists(some, max_size=60))
def test_what_is_there_is_found_at_its_place_and_what_is_not_is_not(keys: list[int], others: list[int]) -> None:
    index = HashIndex(np.array(keys, dtype=np.int64))
    wanted = np.array([*keys, *others], dtype=np.int64)
    places = {key: i for i, key in enumerate(keys)}
    assert index.find(wanted).tolist() == [places.get(key, -1) for key in wanted.tolist()]


def test_keys_that_all_begin_at_one_slot_are_found_one_step_after_the_other() -> None:
    every = np.arange(1 << 16, dtype=np.int64)
    keys = every[first_slots(every, 6) == 63][:32]  # the last slot: the search goes on at the first
    assert len(keys) == 32
    assert HashIndex(keys).find(keys).tolist() == list(range(32))
