"""Sort parquet files three times as large as the memory for it: Ray tasks against Polars' streaming engine.

In: files of random int64 keys and row numbers, row groups of 2^17 rows. Out: sorted parquet files. `--size` is the
tasks' memory in MiB; the rows take three times as much. Ray's own processes and the libraries that a worker imports
come on top of it, in `peak_rss_bytes`; `idle_bytes` is what they take before. The peer is scan, sort and sink.

    raymill bench sort_files [--size MB] [--workers W] [--json FILE|-]
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Case, Setup
from benchmarks.inputs import SEED, kept
from benchmarks.machine import PeakMemory
from benchmarks.sides import start_ray
from tasks.parallel.merge_sort import sort_files
from tasks.parallel.sort_order import Order

TIMES = 3  # rows per memory
ROW_BYTES = 16
FILE_ROWS = 4_000_000


@dataclass(frozen=True)
class Job:
    files: list[Path]
    scratch: Path
    memory_bytes: int
    rows: int
    idle_bytes: int


def prepare(setup: Setup) -> Job:
    memory_bytes = setup.size << 20
    rows = TIMES * memory_bytes // ROW_BYTES
    folder = kept(f"sort-{rows}-{SEED}", partial(write_rows, rows))
    start_ray(setup, "ray.object_store_mb=100")
    return Job(sorted(folder.glob("*.parquet")), setup.scratch, memory_bytes, rows, PeakMemory().sample())


def write_rows(rows: int, folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(SEED)
    for index, start in enumerate(range(0, rows, FILE_ROWS)):
        n = min(FILE_ROWS, rows - start)
        table = pa.table({"key": rng.integers(-(2**62), 2**62, n), "payload": np.arange(start, start + n)})
        pq.write_table(table, folder / f"part-{index:05d}.parquet", row_group_size=1 << 17)


def ours(job: Job) -> Path:
    out = job.scratch / "ours"
    shutil.rmtree(out, ignore_errors=True)
    sort_files(job.files, out, Order(("key",)), job.memory_bytes)
    return out


def polars(job: Job) -> Path:
    out = job.scratch / "polars"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    pl.scan_parquet(job.files).sort("key", maintain_order=True).sink_parquet(out / "part-00000.parquet")
    return out


def check(job: Job, ours: Path, peers: Mapping[str, Any]) -> str:
    """Check that keys ascend from file to file, that no row is lost, and that each has its own payload."""
    last, rows, keys, payloads = -(2**63), 0, 0, 0
    for file in sorted(ours.iterdir()):
        table = pq.read_table(file)
        key, payload = table["key"].to_numpy(), table["payload"].to_numpy()
        assert last <= key[0], f"{file.name} begins below the file before it"
        assert bool((key[1:] >= key[:-1]).all()), f"{file.name} is not in order"
        last, rows = int(key[-1]), rows + len(key)
        keys, payloads = keys ^ _mixed(key, payload), payloads + int(payload.sum())
    assert (rows, payloads) == (job.rows, job.rows * (job.rows - 1) // 2), f"{rows:,} of {job.rows:,} rows"
    for file in job.files:
        table = pq.read_table(file)
        keys ^= _mixed(table["key"].to_numpy(), table["payload"].to_numpy())
    assert keys == 0, "a payload is with another key"
    return f"{rows:,} rows in order, each with its payload"


def _mixed(key: Any, payload: Any) -> int:
    """Return a sum over rows that knows which payload is with which key, in any order of rows."""
    return int(np.bitwise_xor.reduce(key * (2 * payload + 1)))


CASE = Case(
    name="sort_files",
    size_of="megabytes of memory",
    default_size=512,
    prepare=prepare,
    ours=ours,
    peers={"polars": polars},
    check=check,
    measure_input=lambda job: {"rows": job.rows, "bytes": job.rows * ROW_BYTES},
    details=lambda job, runs: {"ours": {"idle_bytes": job.idle_bytes}},
    check_is_warm_up=True,
)
