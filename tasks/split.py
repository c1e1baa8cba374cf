"""Feature rows in; the tables train, valid and test out, each strictly later than the one before.

Rows of one timestamp are never parted, so the shares are met as nearly as the data allows. The test slice is the
latest and is read by evaluation alone. A text that repeats an earlier one is easier to predict than a new one, so the
table near_duplicates names the reviews of valid and test whose group (`tasks.near_duplicates`) begins in an earlier
slice: `review_id`, `slice`, `group`. They stay where their time puts them.

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
NEAR_DUPLICATES = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("review_id", "slice", "group")])


@stage(version=1, libraries=("pyarrow",))
def split(table: Snapshot, alike: Snapshot, config: SplitConfig, out: SnapshotWriter) -> None:
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
    repeats, groups = find_repeats(alike.read(), cuts)
    out.write_table(part_name(0, "near_duplicates"), repeats, NEAR_DUPLICATES)
    out.beside("near_duplicates")
    out.count(rows_in=table.rows())
    out.fact(
        features=table.facts["features"],
        rows=rows,
        borders={"train_until": iso(cuts[0]), "valid_until": iso(cuts[1])},
        near_duplicates={"groups": groups, **{n: repeats["slice"].to_pylist().count(n) for n in SLICES[1:]}},
    )


def write_parts(sink: FileSink, index: int, file: Path, cuts: list[int]) -> list[FileEntry]:
    """One file's rows, written to the slices they belong to."""
    rows = pq.ParquetFile(file).read()
    home = np.searchsorted(cuts, timeline.timestamps_ms(file), side="right")
    parts = {name: rows.filter(pa.array(home == i)) for i, name in enumerate(SLICES)}
    return [sink.write_table(part_name(index, name), part) for name, part in parts.items() if part.num_rows]


def find_repeats(alike: pa.Table, cuts: list[int]) -> tuple[pa.Table, int]:
    """The reviews whose group has a member in an earlier slice than theirs (NEAR_DUPLICATES), and how many groups.

    alike: `review_id`, `group` and `timestamp` of the reviews with near-duplicates.
    """
    groups, group = np.unique(alike["group"].to_numpy(), return_inverse=True)
    home = np.searchsorted(cuts, alike["timestamp"].cast("int64").to_numpy(), side="right")
    earliest = np.full(len(groups), len(SLICES))
    np.minimum.at(earliest, group, home)
    later = home > earliest[group]
    found = alike.select(["review_id", "group"]).filter(pa.array(later))
    return found.append_column("slice", pa.array(np.array(SLICES)[home[later]], pa.string())), len(groups)


def iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat()
