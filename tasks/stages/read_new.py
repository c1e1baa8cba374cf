"""Read reviews that are to be scored: canonical rows, as the stage `ingest` makes them, with or without stars.

Out: rows of `schemas.UNRATED` in the order of files and rows, `rejects/` and `quarantine/`, as ingest has them. No row
is dropped as a repeat: each is scored.

    raymill score --input PATH --out FOLDER
"""

from __future__ import annotations

from tasks import sources
from tasks.core.errors import InputError
from tasks.core.snapshots import SnapshotWriter
from tasks.core.stage import stage
from tasks.sources.settings import IngestConfig
from tasks.stages.ingest import read_parts


@stage(
    version=1,
    config=IngestConfig,
    section="ingest",
    libraries=("pyarrow", "polars"),
    parts=read_parts.part_identities,
    flow="score",
)
def read_new(source: sources.Source, config: IngestConfig, out: SnapshotWriter) -> None:
    period = sources.Period.of(config.earliest, config.latest)
    recipe = sources.Recipe("reviews", source.profile, config, period, forgotten=source.forgotten)
    read_parts.read(read_new, source, recipe, out)
    if not out.rows() and out.counts["rows_in"]:  # a night without reviews is no mistake
        raise InputError(
            f"none of {out.counts['rows_in']:,} rows can be scored{read_parts.first_reject(out)}",
            where=", ".join(file.name for file in source.files[:3]),
            fix="check the dataset profile",
        )
