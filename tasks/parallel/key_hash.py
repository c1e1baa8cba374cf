"""Hash key columns to the same value in every process, on every machine, with every version of the libraries.

The hashes of Polars, pandas and Python change with their versions or with the process, and a loop over CRC-32 hashes
only half a million keys a second. This hash is arithmetic on whole columns. It must never change: a key's hash decides
which file holds the key's records.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from tasks.algorithms.splitmix import GOLDEN, mix
from tasks.core.errors import RunError

U64 = NDArray[np.uint64]

ROWS_AT_ONCE = 1 << 16  # keeps intermediate results in the processor's cache
# Masks for the bytes of an 8-byte word that belong to a string with 0, 1, ... 8 bytes left.
MASKS = [(1 << 8 * left) - 1 for left in range(9)]


def partition_by_hash(records: pa.Table, key: tuple[str, ...], partitions: int) -> list[pa.Table]:
    """Split records into `partitions` tables, equal keys always into the same one; rows keep their order."""
    return deal(
        records, (key_hash(records, key) % np.uint64(partitions)).astype(np.min_scalar_type(partitions)), partitions
    )


def deal(records: pa.Table, home: NDArray[Any], partitions: int) -> list[pa.Table]:
    """Split records into `partitions` tables by each record's table number, `home` (n,); rows keep their order."""
    together = records.take(pa.array(np.argsort(home, kind="stable")))
    ends = np.cumsum(np.bincount(home, minlength=partitions))
    return [together.slice(start, end - start) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def key_hash(records: pa.Table, key: tuple[str, ...]) -> U64:
    """Return (n,) uint64 hashes of n records' key columns. The width of an integer type makes no difference.

    Raises RunError for columns that are neither strings nor integers.
    """
    total = np.zeros(records.num_rows, np.uint64)
    for name in key:
        chunks = records[name].chunks
        column = [_mixed(chunk, name) for chunk in chunks]
        total = mix(total * np.uint64(GOLDEN) + np.concatenate([np.zeros(0, np.uint64), *column]))
    return total


def hashed(texts: pl.Series) -> U64:
    """Return (n,) hashes of texts, a null's as that of the empty one."""
    texts = texts.fill_null("") if texts.null_count() else texts
    return hashed_array(texts.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest()))


def hashed_array(column: pa.Array) -> U64:
    """Return (n,) hashes of a key of this one column, as `key_hash` does."""
    return mix(_mixed(column, ""))


def _mixed(column: pa.Array, name: str) -> U64:
    pieces = [mix(_hash(column.slice(i, ROWS_AT_ONCE), name)) for i in range(0, len(column), ROWS_AT_ONCE)]
    return pieces[0] if len(pieces) == 1 else np.concatenate([np.zeros(0, np.uint64), *pieces])


def _hash(column: pa.Array, name: str) -> U64:
    if pa.types.is_integer(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False)).astype(np.uint64)  # negative numbers wrap modulo 2^64
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return _hash_strings(column)
    raise RunError(f"the key column {name} is of type {column.type}", fix="use strings or integers as keys")


def _hash_strings(column: pa.Array) -> U64:
    """Hash strings by polynomials in GOLDEN modulo 2^64, over their bytes read as little-endian 8-byte words."""
    width = np.int32 if pa.types.is_string(column.type) else np.int64
    _, offsets, values = column.buffers()
    ends = np.frombuffer(offsets, width)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    data = memoryview(values)[ends[0] : ends[-1]] if values is not None else b""
    padded = np.frombuffer(bytes(data) + bytes(8), np.uint8)  # the last word may reach beyond the last string
    words = np.ndarray(len(padded) - 7, "<u8", padded, strides=(1,))  # the word that begins at each byte
    begin, length = ends[:-1] - ends[0], np.diff(ends)

    masks, base = np.array(MASKS, np.uint64), np.uint64(GOLDEN)
    total: U64 = length.astype(np.uint64) + (words[begin] & masks[np.minimum(length, 8)]) * base
    longer = np.flatnonzero(length > 8)
    if len(longer):
        begin, length = begin[longer] + 8, length[longer] - 8
        count = (length + 7) // 8
        first = np.cumsum(count) - count
        number = np.arange(count.sum()) - np.repeat(first, count)  # index of each word in its string
        left = np.repeat(length, count) - 8 * number
        masked = words[np.repeat(begin, count) + 8 * number] & masks[np.minimum(left, 8)]
        powers = np.cumprod(np.full(count.max() + 1, base), dtype=np.uint64)[1:]
        total[longer] += np.add.reduceat(masked * powers[number], first)
    return total
