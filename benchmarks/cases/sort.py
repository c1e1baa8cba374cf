"""Sort pairs of an int64 key and 8 bytes by key, memory to memory: Ray tasks against Polars on the same cores.

In: random keys and row numbers in four blocks in the object store. Out: four sorted partitions there. `one_worker` is
our code with one task at a time; Polars sorts one frame with as many threads as it has, and keeps the result.

    raymill bench sort [--size ROWS] [--workers W] [--runs 10] [--json FILE|-]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from benchmarks.harness import Case, Setup
from benchmarks.inputs import SEED
from benchmarks.sorting import BLOCKS, Job, details, fetched, one_worker, ours, prepare


def pairs(setup: Setup, blocks: int = BLOCKS) -> Job:
    rng = np.random.default_rng(SEED)
    keys = rng.integers(-(2**62), 2**62, setup.size)
    return prepare(setup, pa.table({"key": keys, "payload": np.arange(setup.size)}), blocks)


def polars(job: Job) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(job.table)).sort("key", maintain_order=True)


def check(job: Job, ours: Any, peers: Mapping[str, Any]) -> str:
    expected = polars(job).to_arrow()
    assert fetched(ours).equals(expected.cast(job.table.schema)), "ours and polars"
    if "one_worker" in peers:
        assert fetched(peers["one_worker"]).equals(expected.cast(job.table.schema)), "one_worker and polars"
    return f"{job.table.num_rows:,} rows in the same order"


CASE = Case(
    name="sort",
    size_of="rows",
    default_size=10_000_000,
    prepare=pairs,
    ours=ours,
    peers={"one_worker": one_worker, "polars": polars},
    check=check,
    measure_input=lambda job: {"bytes": job.table.nbytes},
    details=details,
    keeps_outputs=False,
)
