"""Describe a MapReduce job: its functions and its key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa


@dataclass(frozen=True)
class Job:
    """Plain functions over Arrow tables, pickled to the actors.

    map: input -> tables of keyed records in one schema, one after the other, so that a mapper need not hold all of an
    input's records. key: key columns, strings or integers without nulls. combine: records -> records with rows of equal
    keys merged, in any order. reduce: partition index, records in ascending key order (batch by batch, all rows of a
    key in one batch) -> a small result. partition: records, P -> P tables, equal keys always in the same one; the
    default is a hash of the key that is the same in every process, on every machine. unique: no table from `map` has
    two rows of one key, so a single table needs no combining.
    """

    map: Callable[[Any], Iterable[pa.Table]]
    key: tuple[str, ...]
    combine: Callable[[pa.Table], pa.Table]
    reduce: Callable[[int, Iterator[pa.Table]], Any]
    partition: Callable[[pa.Table, int], list[pa.Table]] | None = None
    unique: bool = False
