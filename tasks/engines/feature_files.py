"""Read feature files as arrays: a rank's rows, a file's batches, the range of the labels.

Each rank gets an equal contiguous range of the table, and no row is dropped: Ray Data's own split drops the remainder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LABEL = "label"


@dataclass(frozen=True)
class Slab:
    """Rows start..stop of one row group of a parquet file."""

    file: Path
    group: int
    start: int
    stop: int

    def read(self, columns: Sequence[str]) -> pa.Table:
        whole = pq.ParquetFile(self.file).read_row_group(self.group, columns=list(columns))
        return whole.slice(self.start, self.stop - self.start)


def slabs(files: Sequence[Path], rank: int = 0, world_size: int = 1) -> list[Slab]:
    """List this rank's rows: its equal range of the table that the files form in order."""
    groups = [
        (f, g, meta.row_group(g).num_rows) for f in files for meta in (pq.read_metadata(f),) for g in _groups(meta)
    ]
    total = sum(rows for *_, rows in groups)
    first, last = total * rank // world_size, total * (rank + 1) // world_size
    own, begin = [], 0
    for file, group, rows in groups:
        start, stop = max(first - begin, 0), min(last - begin, rows)
        begin += rows
        if start < stop:
            own.append(Slab(file, group, start, stop))
    return own


def _groups(metadata: Any) -> range:
    return range(metadata.num_row_groups)


def batches(
    files: Sequence[Path], features: Sequence[str], rank: int = 0, world_size: int = 1
) -> Iterator[tuple[Any, Any]]:
    """Yield this rank's rows as ((n, f) float32 with NaN for null, (n,) float32) batches, one per file."""
    for _, mine in groupby(slabs(files, rank, world_size), key=lambda slab: slab.file):
        yield arrays(pa.concat_tables([slab.read([*features, LABEL]) for slab in mine]), features)


def arrays(table: pa.Table, features: Sequence[str]) -> tuple[Any, Any]:
    """Convert a feature table to ((n, f) float32 with NaN for null, (n,) float32)."""
    # Filled feature by feature and transposed: XGBoost accepts strides, and this takes a third of the time.
    x = np.empty((len(features), table.num_rows), dtype=np.float32)
    for i, name in enumerate(features):
        x[i] = table[name].to_numpy()
    return x.T, table[LABEL].to_numpy()


def column(rows: Sequence[Slab], name: str) -> Any:
    """Read one column of these rows as an (n,) array, with NaN or NaT for null."""
    return np.concatenate([slab.read([name])[name].to_numpy() for slab in rows] or [np.zeros(0, np.float32)])


def label_range(files: Sequence[Path]) -> tuple[float, float] | None:
    """Return the smallest and the largest label, from the row groups' statistics; None without rows."""
    stats = []
    for meta in map(pq.read_metadata, files):
        column = meta.schema.names.index(LABEL)
        stats += [g.column(column).statistics for g in map(meta.row_group, range(meta.num_row_groups)) if g.num_rows]
    return (min(s.min for s in stats), max(s.max for s in stats)) if stats else None
