"""SplitMix64's finalizer: a permutation of the 64-bit numbers in which every input bit affects every output bit.

Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

from typing import Any

import numpy as np

U64 = np.ndarray[Any, np.dtype[np.uint64]]
GOLDEN = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio, odd: its multiples spread evenly


def mix(x: U64) -> U64:
    """Mix (n,) uint64 numbers. Distinct inputs give distinct outputs; `x` is not changed."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x
