"""Read the parquet files of snapshots with Polars, by their paths alone.

Polars would take a folder named KEY=VALUE for a column, and one named `reviews[1]` for a pattern.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, TypeVar

import polars as pl


class HasRows(Protocol):
    @property
    def rows(self) -> int: ...


P = TypeVar("P", bound=HasRows)


def read_part(file: Path, columns: Iterable[str] | None = None) -> pl.DataFrame:
    """Read one file, all its columns or these."""
    names = None if columns is None else list(columns)
    return pl.read_parquet(file, columns=names, glob=False, hive_partitioning=False)


def scan_parts(files: Iterable[Path]) -> pl.LazyFrame:
    """Scan several files as one frame, in this order."""
    return pl.scan_parquet(list(files), glob=False, hive_partitioning=False)


def in_batches(parts: Iterable[P], rows: int) -> list[list[P]]:
    """Group parts into runs of at least so many rows each, but for the last: a task has to load what it works with."""
    batches: list[list[P]] = []
    held = rows
    for part in parts:
        if held >= rows:
            batches.append([])
            held = 0
        batches[-1].append(part)
        held += part.rows
    return batches
