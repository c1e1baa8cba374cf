"""Read product metadata into the canonical items table, on Modin over Ray.

In: JSON lines, lines of Python literals (the 2014 release; parsed, never evaluated), JSON arrays, CSV, TSV or parquet,
and the `items:` section of a dataset profile. Out: `part-*.parquet` with the columns of `schemas.ITEMS`, `rejects/`
and `quarantine/` as ingest writes them. rows in = rows out + rejects.

    raymill run --items PATH --until ingest-items
"""

from __future__ import annotations

from tasks import sources
from tasks.core.errors import InputError
from tasks.core.snapshots import SnapshotWriter
from tasks.core.stage import stage
from tasks.sources.settings import IngestItemsConfig
from tasks.stages.ingest import read_parts


@stage(
    version=1,
    config=IngestItemsConfig,
    unit="items",
    libraries=("pyarrow", "polars", "orjson"),
    parts=read_parts.part_identities,
)
def ingest_items(source: sources.Source, config: IngestItemsConfig, out: SnapshotWriter) -> None:
    read_parts.read(ingest_items, source, sources.Recipe("items", source.profile, config), out)
    if not out.rows():
        raise InputError(
            f"no usable items ({out.rows('rejects'):,} unusable{read_parts.first_reject(out)})",
            where=", ".join(f.name for f in source.files[:3]),
            fix="check the `items:` section of the dataset profile",
        )
