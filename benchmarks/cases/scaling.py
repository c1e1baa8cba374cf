"""How the parallel sort scales: 1, 2 and 4 workers on the same rows, and on rows that grow with the workers.

In: random int64 keys with 8 bytes each, in eight blocks in the object store. `ours` has `--workers` tasks at a time,
`workers_1` and its like as many as they say, on the same cores: more workers than cores show what switching costs.
One of them has ours' number: how far the two are apart is noise. `polars` is the best single-process way. `weak_1`
sorts size / workers rows with one worker: against `ours`, what each worker more costs when its share of the rows stays
(Gustafson 1988).

The details have speed-up, efficiency and Karp and Flatt's serial fraction by number of workers, and Amdahl's fit.

    raymill bench scaling [--size ROWS] [--workers W] [--runs 10] [--json FILE|-]
    python -m benchmarks.scaling_plot FILE --png FILE
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from benchmarks import scaling
from benchmarks.cases.sort import pairs, polars
from benchmarks.harness import Case, Setup, Timed
from benchmarks.sorting import Job, fetched, sort_with
from tasks.core.errors import UserError

WORKERS = (1, 2, 4)


def on(workers: int) -> Callable[[Job], Any]:
    return lambda job: sort_with(job, job.blocks, workers)


def ours(job: Job) -> Any:
    return sort_with(job, job.blocks, job.workers)


def weak(job: Job) -> Any:
    """One worker's share of the blocks, on one worker."""
    return sort_with(job, job.blocks[: len(job.blocks) // job.workers], 1)


def prepare(setup: Setup) -> Job:
    if any(setup.workers % w and w % setup.workers for w in WORKERS):
        fix = f"one that {', '.join(map(str, WORKERS))} divide or are multiples of, such as 2"
        raise UserError(f"{setup.workers} workers cannot be compared with {WORKERS}", where="bench scaling", fix=fix)
    return pairs(setup, blocks=max(WORKERS) * setup.workers)


def check(job: Job, ours: Any, peers: Mapping[str, Any]) -> str:
    expected = polars(job).to_arrow().cast(job.table.schema)
    for name, found in {"ours": ours, **peers}.items():
        if name.startswith("weak"):
            rows = job.table.slice(0, sum(len(block) for block in _first(job)))
            assert fetched(found).equals(rows.sort_by("key")), name
        elif name != "polars":
            assert fetched(found).equals(expected), name
    return f"{job.table.num_rows:,} rows in the same order with every number of workers"


def _first(job: Job) -> list[pa.Table]:
    import ray

    tables: list[pa.Table] = ray.get(job.blocks[: len(job.blocks) // job.workers])
    return tables


def details(job: Job, runs: Mapping[str, Sequence[Timed]]) -> dict[str, dict[str, Any]]:
    """Return one row for each number of workers, strong scaling, and the efficiency of weak scaling."""
    seconds = {job.workers: _median(runs["ours"])}
    seconds |= {w: _median(runs[f"workers_{w}"]) for w in WORKERS if f"workers_{w}" in runs}
    found: dict[str, Any] = {"by_workers": []}
    if 1 in seconds:
        found["by_workers"] = [_row(seconds[1], seconds[w], w) for w in sorted(seconds)]
        cores = {w: s for w, s in seconds.items() if w <= job.workers}
        if len(cores) > 1:
            alone, serial = scaling.amdahl(cores)
            found |= {"amdahl_alone_s": round(alone, 4), "amdahl_serial_fraction": round(serial, 4)}
    if "weak_1" in runs:
        found["weak_efficiency"] = round(_median(runs["weak_1"]) / seconds[job.workers], 3)
    return {"ours": found}


def _row(alone: float, seconds: float, workers: int) -> dict[str, Any]:
    speed_up = alone / seconds
    fraction = round(scaling.karp_flatt(speed_up, workers), 4) if workers > 1 else None
    return {
        "workers": workers,
        "median_s": round(seconds, 4),
        "speed_up": round(speed_up, 3),
        "efficiency": round(speed_up / workers, 3),
        "karp_flatt": fraction,
    }


def _median(timed: Sequence[Timed]) -> float:
    return statistics.median(run.wall_s for run in timed)


CASE = Case(
    name="scaling",
    size_of="rows",
    default_size=10_000_000,
    prepare=prepare,
    ours=ours,
    peers={**{f"workers_{w}": on(w) for w in WORKERS}, "weak_1": weak, "polars": polars},
    check=check,
    measure_input=lambda job: {"bytes": job.table.nbytes},
    details=details,
    keeps_outputs=False,
)
