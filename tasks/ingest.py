"""Raw review files in, the canonical reviews table out, on Modin over Ray.

In: parquet, CSV or TSV files and a dataset profile (`tasks.sources`). Out: `part-*.parquet` with the columns of
`schemas.REVIEWS`, text as it came, in the order of file names and rows; `rejects/` with every row that cannot be
used, its reason, file and row number. rows in = rows out + rejects.

    raymill run --input PATH --dataset amazon-us --until ingest
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from tasks import sources
from tasks.core.errors import InputError
from tasks.core.schemas import REJECTS, REVIEWS
from tasks.core.settings import IngestConfig
from tasks.core.snapshots import FileEntry, FileSink, SnapshotWriter, part_name
from tasks.core.stage import stage
from tasks.engines import frames


@stage(version=1, libraries=("pyarrow", "polars"))
def ingest(source: sources.Source, config: IngestConfig, out: SnapshotWriter) -> None:
    rows = frames.from_map(load_part, sources.plan(source), profile=source.profile)
    out.add(frames.write(rows, out.sink, write_part))
    out.count(rows_in=out.rows() + out.rows("rejects"))
    if out.rows() < config.min_rows:
        raise InputError(
            f"{out.rows():,} usable rows ({out.rows('rejects'):,} unusable{_first_reject(out)}); "
            f"at least {config.min_rows:,} are needed to split by time and learn",
            where=", ".join(f.name for f in source.files[:3]),
            fix="give more data, check the dataset profile, or lower ingest.min_rows",
        )


def load_part(part: sources.Part, profile: sources.Profile) -> pa.Table:
    """One part as a table of REVIEWS and REJECTS columns side by side; `reason` is null where the row is usable."""
    kept, rejected = sources.load(part, profile)
    return pa.concat_tables([kept, rejected], promote_options="permissive")


def write_part(sink: FileSink, index: int, rows: pa.Table) -> list[FileEntry]:
    """Usable rows to the main table, the others to rejects/."""
    usable = pc.is_null(rows["reason"])
    tables = {"": (rows.filter(usable), REVIEWS), "rejects": (rows.filter(pc.invert(usable)), REJECTS)}
    return [sink.write_table(part_name(index, name), t, schema) for name, (t, schema) in tables.items() if t.num_rows]


def _first_reject(out: SnapshotWriter) -> str:
    files = out.files("rejects")
    if not files:
        return ""
    first = pa.parquet.read_table(files[0]).slice(0, 1).to_pylist()[0]
    return f", the first: {first['source']} row {first['row']}: {first['reason']}"
