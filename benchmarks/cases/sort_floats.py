"""Sort float64 alone, memory to memory: Ray tasks against `np.sort` and Polars.

In: random numbers in four blocks in the object store. Out: four sorted partitions there. `numpy` sorts in AVX-512 or
AVX2 where it can, on one core, in memory that it has used before; `one_worker` is our code with one task at a time.

    raymill bench sort_floats [--size ROWS] [--workers W] [--runs 10] [--json FILE|-]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from benchmarks.harness import Case, Setup
from benchmarks.inputs import SEED
from benchmarks.sorting import Job, details, fetched, one_worker, ours, prepare
from tasks.parallel.sort_order import Array


def floats(setup: Setup) -> Job:
    return prepare(setup, pa.table({"key": np.random.default_rng(SEED).standard_normal(setup.size)}))


class Numpy:
    """The peer: copies into an array that it keeps, and sorts that."""

    def __init__(self) -> None:
        self._kept: Array = np.empty(0)

    def __call__(self, job: Job) -> Array:
        values = job.table["key"].to_numpy()
        if len(self._kept) != len(values):
            self._kept = np.empty_like(values)
        np.copyto(self._kept, values)
        self._kept.sort()
        return self._kept


def polars(job: Job) -> pl.Series:
    return pl.Series(job.table["key"].to_numpy()).sort()


def check(job: Job, ours: Any, peers: Mapping[str, Any]) -> str:
    expected = np.sort(job.table["key"].to_numpy())
    found = {"ours": ours, **peers}
    for name, output in found.items():
        values = fetched(output)["key"].to_numpy() if name in ("ours", "one_worker") else np.asarray(output)
        np.testing.assert_array_equal(values, expected, err_msg=name)
    return f"{job.table.num_rows:,} numbers in the same order on {len(found)} sides"


CASE = Case(
    name="sort_floats",
    size_of="rows",
    default_size=10_000_000,
    prepare=floats,
    ours=ours,
    peers={"one_worker": one_worker, "numpy": Numpy(), "polars": polars},
    check=check,
    measure_input=lambda job: {"bytes": job.table.nbytes},
    details=details,
    keeps_outputs=False,
)
