"""Look up integers among others by hashing, whole arrays at once.

Open addressing with linear probing (Knuth, The Art of Computer Programming, volume 3, section 6.4, algorithm L) in a
table at most half full. All keys still without a slot take one step together, so a look-up is a handful of passes over
shrinking arrays. It takes a tenth of the time of a binary search, which leaves the processor's cache at every step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.algorithms.splitmix import GOLDEN

Ints = NDArray[np.int64]
Array = NDArray[Any]
EMPTY = -1


def slot_bits(keys: int) -> int:
    """Return the bits of a table with at least twice as many slots as keys."""
    return max(1, (2 * keys - 1).bit_length())


def first_slots(keys: Ints, bits: int) -> Ints:
    """Return each key's first slot (n,) in a table of 2^bits (Fibonacci hashing: Knuth, the same section)."""
    return (keys.view(np.uint64) * np.uint64(GOLDEN) >> np.uint64(64 - bits)).view(np.int64)


class HashIndex:
    """Look up the places of distinct keys, fewer than 2^31. It holds only arrays, so processes can share its memory."""

    def __init__(self, keys: Ints) -> None:
        self.keys, self.bits = keys, slot_bits(len(keys))
        self.table = np.full(1 << self.bits, EMPTY, np.int32)
        left, slot = np.arange(len(keys), dtype=np.int32), first_slots(keys, self.bits)
        while len(left):
            free = self.table[slot] == EMPTY
            self.table[slot[free]] = left[free]
            lost = self.table[slot] != left
            left, slot = left[lost], (slot[lost] + 1) & (len(self.table) - 1)

    def find(self, keys: Ints) -> Array:
        """Return the place of each key (m,), -1 for a missing key."""
        if not len(self.keys):
            return np.full(len(keys), EMPTY, np.int32)
        slot = first_slots(keys, self.bits)
        places = self.table.take(slot)
        left = np.flatnonzero(self._wrong(places, keys))
        slot, keys = slot[left], keys[left]
        while len(left):
            slot += 1
            slot &= len(self.table) - 1
            places[left] = there = self.table.take(slot)
            wrong = self._wrong(there, keys)
            left, slot, keys = left[wrong], slot[wrong], keys[wrong]
        return places

    def _wrong(self, places: Array, keys: Ints) -> Array:
        """Return whether another key has each place. Without a check of bounds: an empty slot's place wraps around."""
        wrong: Array = self.keys.take(places, mode="wrap") != keys
        wrong &= places != EMPTY
        return wrong
