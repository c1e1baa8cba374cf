"""Cut raw reviews by the time they arrived, for `raymill rehearse`.

In: a snapshot of `ingest`. Out: a file for each night, `schemas.REVIEWS` in the order of the raw reviews: the first has
what was there before the first night, each other one what arrived until that night. A night without new reviews has an
empty file. Reviews of one time are in one file. Fact `until`: for each file, the time (ms) before which its reviews
are.

    raymill rehearse --nights 30
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import Field

from tasks.core.errors import InputError
from tasks.core.part_files import read_part
from tasks.core.sections import Positive, Section
from tasks.core.snapshot_files import FileEntry, FileSink, part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter, read_tables
from tasks.core.stage import stage
from tasks.domain.schemas import REVIEWS
from tasks.engines import cluster
from tasks.parallel import time_borders


class ArrivalsConfig(Section):
    nights: Positive
    known: Annotated[float, Field(gt=0, lt=1)]
    by: Literal["time", "reviews"]


@stage(version=1, config=ArrivalsConfig, flow="rehearse")
def arrivals(raw: Snapshot, config: ArrivalsConfig, out: SnapshotWriter) -> None:
    import ray

    files = raw.files()
    cuts, end = borders(files, config)
    split, join = ray.remote(split_part), ray.remote(join_night)
    pieces = cluster.gather(split.remote(i, file, cuts, out.scratch) for i, file in enumerate(files))
    of_night = [[part[night] for part in pieces if night in part] for night in range(config.nights + 1)]
    out.add(cluster.gather(join.remote(out.sink, night, parts) for night, parts in enumerate(of_night)))
    out.count(rows_in=raw.rows())
    out.fact(until=[*cuts, end])


def borders(files: Sequence[Path], config: ArrivalsConfig) -> tuple[list[int], int]:
    """Return the times (ms) from which the reviews of each night arrive, and the end of the last one.

    Raises InputError if all reviews after the known ones are of one time.
    """
    shares = [config.known + (1 - config.known) * i / config.nights for i in range(config.nights)]
    *cuts, end = time_borders.borders(files, [*shares, 1.0])
    if config.by == "time":
        cuts = [int(cut) for cut in np.linspace(cuts[0], end, config.nights + 1)[:-1]]
    if cuts[0] >= end:
        raise InputError(
            f"{1 - config.known:.0%} of the reviews are of one time: no night comes after another",
            where="arrivals",
            fix="give reviews of a longer time, or lower arrivals.known",
        )
    return cuts, end


def split_part(index: int, file: Path, cuts: Sequence[int], scratch: Path) -> dict[int, Path]:
    """Write the rows of a file to a file for each night; returns these."""
    rows = read_part(file)
    night = np.searchsorted(cuts, rows["timestamp"].dt.epoch("ms").to_numpy(), side="right")
    pieces = {}
    for one in np.unique(night).tolist():
        pieces[one] = scratch / f"{index:05d}-{one:04d}.parquet"
        rows.filter(pl.Series(night == one)).write_parquet(pieces[one])
    return pieces


def join_night(sink: FileSink, night: int, pieces: Sequence[Path]) -> FileEntry:
    def tables() -> Iterator[pa.Table]:
        for piece in pieces:
            yield read_tables([piece])

    return sink.write_batches(part_name(night), tables(), REVIEWS)


def spans(until: Sequence[int]) -> list[tuple[int, int]]:
    """Return for each night after the first the times (ms) between which its reviews arrived."""
    return list(pairwise(until))
