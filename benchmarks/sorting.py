"""What the sort cases share: blocks in Ray's object store, our sort with any number of workers, and its serial part.

Memory to memory: blocks lie in the object store before the clock starts, sorted partitions lie there when it stops.
Results never travel to this process while it runs. Every run gets the same rows; a sort cannot learn from the last one.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from benchmarks.harness import SelfTimed, Setup, Timed
from benchmarks.sides import LIKE_PEERS, set_variables, start_ray
from tasks.parallel.merge_sort import sort_tables
from tasks.parallel.sort_order import Order

BLOCKS = 4  # as many partitions, whatever the number of workers
KEY = Order(("key",))
# Workers keep the memory that they free: on some virtual machines a fresh page costs more than sorting its numbers.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}


@dataclass(frozen=True)
class Job:
    table: pa.Table
    blocks: list[Any]
    workers: int


def prepare(setup: Setup, table: pa.Table, count: int = BLOCKS) -> Job:
    """Start Ray and put the table there, in `count` blocks of the same number of rows."""
    import ray

    set_variables(setup, {**KEEP_MEMORY, **LIKE_PEERS})
    start_ray(setup, f"ray.object_store_mb={max(512, 6 * table.nbytes >> 20)}")
    rows = table.num_rows
    edges = [rows * i // count for i in range(count + 1)]
    blocks = [ray.put(table.slice(a, b - a)) for a, b in itertools.pairwise(edges)]
    return Job(table, blocks, setup.workers)


def ours(job: Job) -> Any:
    return sort_with(job, job.blocks, job.workers)


def one_worker(job: Job) -> Any:
    """The same code, one task at a time."""
    return sort_with(job, job.blocks, 1)


def sort_with(job: Job, blocks: list[Any], workers: int) -> Any:
    """Sort blocks, so many tasks at a time: each holds its share of the session's logical CPUs."""
    import ray

    gc.collect()
    started = time.perf_counter()
    partitions = sort_tables(blocks, KEY, len(blocks), cpus=job.workers / workers)
    ray.wait(partitions, num_returns=len(partitions), fetch_local=False)
    return SelfTimed(time.perf_counter() - started, partitions)


def fetched(partitions: list[Any]) -> pa.Table:
    import ray

    return pa.concat_tables(ray.get(partitions)).combine_chunks()


def details(job: Job, runs: Mapping[str, Sequence[Timed]]) -> dict[str, dict[str, Any]]:
    """Report the speed-up over one worker, and the serial share by Karp and Flatt (1990).

    With speed-up S on W workers, e = (1/S - 1/W) / (1 - 1/W). It is Amdahl's serial share if all the rest scales; if e
    grows with W, something else does not.
    """
    if "one_worker" not in runs or job.workers == 1:
        return {}
    pairs = zip(runs["one_worker"], runs["ours"], strict=True)
    speedup = statistics.median(one.wall_s / many.wall_s for one, many in pairs)
    serial = (1 / speedup - 1 / job.workers) / (1 - 1 / job.workers)
    walls = [run.wall_s for run in runs["ours"]]
    variation = statistics.stdev(walls) / statistics.mean(walls) if len(walls) > 1 else 0.0
    return {
        "ours": {
            "speedup": round(speedup, 3),
            "karp_flatt_serial_share": round(serial, 4),
            "amdahl_limit": round(1 / serial, 1) if serial > 0 else None,
            "coefficient_of_variation": round(variation, 4),
        }
    }
