"""Feature rows in; the tables train, valid and test out, each strictly later than the one before.

Rows of one timestamp are never parted, so the shares are met as nearly as the data allows. The test slice is the
latest and is read by evaluation alone.

    raymill run --until split
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks import timeline
from tasks.core.errors import InputError
from tasks.core.settings import SplitConfig
from tasks.core.snapshots import FileEntry, FileSink, Snapshot, SnapshotWriter, part_name
from tasks.core.stage import stage
from tasks.engines import cluster

SLICES = ("train", "valid", "test")


@stage(version=1, libraries=("pyarrow",))
def split(table: Snapshot, config: SplitConfig, out: SnapshotWriter) -> None:
    import ray

    cuts = timeline.borders(table.files(), [config.train, config.train + config.valid])
    write = ray.remote(write_parts)
    entries = cluster.gather(write.remote(out.sink, i, file, cuts) for i, file in enumerate(table.files()))
    out.add(entry for part in entries for entry in part)
    rows = {name: out.rows(name) for name in SLICES}
    if small := [f"{name} has {rows[name]:,}" for name in SLICES if rows[name] < config.min_rows]:
        raise InputError(
            f"too few reviews to split by time: {', '.join(small)} of {table.rows():,}, each needs {config.min_rows}",
            where="split",
            fix="give more data over a longer time, or lower split.min_rows",
        )
    out.count(rows_in=table.rows())
    out.fact(
        features=table.facts["features"], rows=rows, borders={"train_until": iso(cuts[0]), "valid_until": iso(cuts[1])}
    )


def write_parts(sink: FileSink, index: int, file: Path, cuts: list[int]) -> list[FileEntry]:
    """One file's rows, written to the slices they belong to."""
    rows = pq.ParquetFile(file).read()
    home = np.searchsorted(cuts, timeline.timestamps_ms(file), side="right")
    parts = {name: rows.filter(pa.array(home == i)) for i, name in enumerate(SLICES)}
    return [sink.write_table(part_name(index, name), part) for name, part in parts.items() if part.num_rows]


def iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat()
