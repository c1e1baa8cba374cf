"""Turn raw review files into the canonical reviews table, on Modin over Ray.

In: files of any format that `tasks.sources` reads, and a dataset profile. Out: `part-*.parquet` with the columns of
`schemas.REVIEWS`, text unchanged, in the order of files and rows; `keys/` with hashes of each row, by which clean finds
repeats; `rejects/` with every unusable record, its reason, file and row number; `quarantine/` with the files that could
not be read, or not to their end. rows in = rows out + rejects + rows of users to forget, who leave no other trace.

    raymill run --input PATH --dataset amazon-us --until ingest
"""

from __future__ import annotations

import pyarrow as pa

from tasks import sources
from tasks.core.errors import InputError
from tasks.core.snapshots import SnapshotWriter
from tasks.core.stage import stage
from tasks.sources.settings import IngestConfig
from tasks.stages.ingest import read_parts, row_hashes


@stage(version=2, config=IngestConfig, libraries=("pyarrow", "polars"), parts=read_parts.part_identities)
def ingest(source: sources.Source, config: IngestConfig, out: SnapshotWriter) -> None:
    out.side_table("keys")
    period = sources.Period.of(config.earliest, config.latest)
    recipe = sources.Recipe("reviews", source.profile, config, period, forgotten=source.forgotten)
    read_parts.read(ingest, source, recipe, out, keys_beside)
    if out.rows() < config.min_rows:
        raise InputError(
            f"{out.rows():,} usable rows ({out.rows('rejects'):,} unusable{read_parts.first_reject(out)}); "
            f"at least {config.min_rows:,} are needed to split by time and learn",
            where=", ".join(f.name for f in source.files[:3]),
            fix="give more data, check the dataset profile, or lower ingest.min_rows",
        )


def keys_beside(reviews: pa.Table) -> dict[str, pa.Table]:
    return {"keys": row_hashes.of(reviews)}
