"""The order of a sort: which columns, which direction, where nulls go; and a stable permutation for any keys.

One key of numbers, times or truth values without nulls is sorted by numpy, in AVX-512 or AVX2. Everything else (several
keys, strings, decimals, nulls) is sorted by Polars.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import total_ordering
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from tasks.core.errors import InputError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Order:
    """Sort by the columns `by`, each descending or not; nulls first or last, whichever the direction.

    NaN is greater than every number and equal to itself, -0.0 equals 0.0, strings compare by their UTF-8 bytes.
    """

    by: tuple[str, ...]
    descending: tuple[bool, ...] = ()
    nulls_last: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "descending", self.descending or (False,) * len(self.by))
        if not self.by or len(self.descending) != len(self.by):
            raise InputError(
                f"{len(self.by)} keys and {len(self.descending)} directions",
                where="sort",
                fix="give at least one key, and a direction for each key or for none",
            )

    def check(self, schema: pa.Schema) -> None:
        """Raise InputError for a key that the table lacks or that has no order."""
        for name in self.by:
            if schema.names.count(name) != 1:
                raise InputError(f"no column {name!r}, or several", where="sort", fix=f"columns: {schema.names}")
            kind = schema.field(name).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if pa.types.is_nested(kind) or pa.types.is_interval(kind) or isinstance(kind, pa.BaseExtensionType):
                raise InputError(f"column {name!r} has no order: {kind}", where="sort", fix="sort by another column")


def key_columns(table: pa.Table, order: Order) -> pa.Table:
    """Return the keys alone, one chunk each, dictionaries decoded."""
    columns = [table[name] for name in order.by]
    plain = [c.cast(c.type.value_type) if pa.types.is_dictionary(c.type) else c for c in columns]
    return pa.table([c.combine_chunks() for c in plain], names=[str(i) for i in range(len(plain))])


def numbers(keys: pa.Table, order: Order) -> Array | None:
    """Return an array that numpy sorts in the order wanted, a view if possible; None if numpy cannot."""
    column = keys.column(0)
    kind = column.type
    if len(order.by) > 1 or column.null_count:
        return None
    if pa.types.is_floating(kind):
        found = values(column, f"f{kind.bit_width // 8}")  # numpy sorts NaN last
        return ~_ordinals(found) if order.descending[0] else found
    if pa.types.is_boolean(kind):
        found = column.to_numpy().astype(np.uint8)
    elif pa.types.is_integer(kind) or pa.types.is_temporal(kind):
        found = values(column, f"{'u' if pa.types.is_unsigned_integer(kind) else 'i'}{kind.bit_width // 8}")
    else:
        return None
    return ~found if order.descending[0] else found


def values(column: pa.ChunkedArray, dtype: str) -> Array:
    """View a fixed-width column of at most one chunk, without nulls, as numbers of the same width."""
    if not len(column):
        return np.empty(0, dtype)
    chunk = column.chunk(0)
    return np.frombuffer(chunk.buffers()[1], dtype, len(chunk), chunk.offset * np.dtype(dtype).itemsize)


def _ordinals(floats: Array) -> Array:
    """Map floats to int64 in the same order: a double's bits, flipped below the sign if it is negative."""
    wide = floats.astype(np.float64) + 0.0  # -0.0 becomes 0.0
    wide[np.isnan(wide)] = np.nan  # the positive one
    bits = wide.view(np.int64)
    bits ^= (bits >> 63) & np.int64(2**63 - 1)
    return bits


def stable_order(keys: Array) -> Array:
    """Return the stable sorting permutation of less than 2^31 keys.

    numpy's vectorised sort is five times as fast as its stable one; sorting (rank, place) then orders equal keys.
    """
    keys = _ordinals(keys) if keys.dtype.kind == "f" else keys
    order: Array = np.argsort(keys)
    ordered = keys[order]
    new = ordered[1:] != ordered[:-1]
    if not new.all():
        rank = np.concatenate([[0], np.cumsum(new)])
        order = np.sort(rank << 32 | order) & 0xFFFFFFFF
    return order


def permutation(table: pa.Table, order: Order) -> Array:
    """Return the stable sorting permutation of a table's rows."""
    keys = key_columns(table, order)
    if (found := numbers(keys, order)) is not None:
        return stable_order(found)
    rows = pl.DataFrame(pl.from_arrow(keys)).with_row_index("row")
    options: dict[str, Any] = {"descending": list(order.descending), "nulls_last": order.nulls_last}
    return rows.sort(keys.column_names, maintain_order=True, **options)["row"].to_numpy().astype(np.int64)


class KeyTuples:
    """The keys of rows as comparable values, built on demand: for a search in sorted rows."""

    def __init__(self, keys: pa.Table, order: Order) -> None:
        self._columns = [_comparable(column) for column in keys.columns]
        self._order = order
        self._rows: int = keys.num_rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, row: int) -> Key:
        return Key(tuple(column[row].as_py() for column in self._columns), self._order)


def _comparable(column: pa.ChunkedArray) -> pa.Array:
    chunk = column.combine_chunks()
    return chunk.view(f"int{chunk.type.bit_width}") if pa.types.is_temporal(chunk.type) else chunk


@total_ordering
class Key:
    """The key of one row."""

    def __init__(self, parts: tuple[Any, ...], order: Order) -> None:
        # NaN, which differs from itself, is above all numbers.
        self._parts = [None if p is None else (True, 0) if p != p else (False, p) for p in parts]
        self._order = order

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self._parts == other._parts

    def __lt__(self, other: Key) -> bool:
        for mine, theirs, descending in zip(self._parts, other._parts, self._order.descending, strict=True):
            if mine == theirs:
                continue
            if mine is None or theirs is None:
                return (mine is None) != self._order.nulls_last
            return bool(mine > theirs if descending else mine < theirs)
        return False
