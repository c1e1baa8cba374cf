"""A mixture of experts, one training step, on two ranks: against one process that computes each expert's rows at once.

In: `--size` rows, and as many features, hidden columns and outputs; 10 experts, 2 for each row, float32, new random
rows every run. Out: y and all gradients. `ours` cuts each expert across the ranks, `expert_parallel` gives each rank
half of the experts and half of the rows. `one_thread` and `two_threads` are one process; so is `one_row_at_a_time`,
forward only, which is no baseline: it reads an expert's 8 MB for every row.

Ranks take their own time, from a barrier to the next, after a warm-up step; rows are made before, and results travel
after. Every run's y is compared with that of the one process.

    raymill bench moe [--size N] [--workers 2] [--runs 10] [--json FILE|-]
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from benchmarks.harness import Case, SelfTimed, Setup, Timed
from benchmarks.machine import needs_torch
from benchmarks.sides import LIKE_PEERS, set_variables, start_ray
from tasks.parallel.allreduce import allreduce
from tasks.parallel.comm import Comm, run_threads
from tasks.parallel.comm_actors import run_actors

EXPERTS, CHOICES = 10, 2
TOLERANCE = 2e-5  # of the greatest |y|: float32, sums in another order


@dataclass(frozen=True)
class Job:
    size: int
    workers: int
    seeds: Iterator[int] = field(default_factory=lambda: itertools.count(1))


def prepare(setup: Setup) -> Job:
    needs_torch("moe", "lab")
    set_variables(setup, LIKE_PEERS)
    start_ray(setup)
    return Job(setup.size, setup.workers)


@cache
def experts_of(size: int, groups: int, slices: int, rank: int) -> Any:
    """Make a rank's part of the experts. A process keeps it from run to run, as training does."""
    import torch

    from tasks.parallel.moe import Experts, Grid

    random = torch.Generator().manual_seed(size)
    scale = size**-0.5
    router = torch.randn(size, EXPERTS, generator=random) * scale
    first, second = (torch.randn(EXPERTS, size, size, generator=random) * scale for _ in range(2))
    return Experts(router, first, second).part(Grid(groups, slices), rank)


def step(comm: Comm, size: int, seed: int, groups: int, slices: int, threads: int) -> Any:
    """Make this rank's rows, warm up, then time one step between barriers. Returns wall and CPU seconds, rows and y."""
    import torch

    from tasks.parallel.moe import Grid, forward

    torch.set_num_threads(threads)
    experts = experts_of(size, groups, slices, comm.rank)
    rows = np.array_split(np.arange(size), groups)[comm.rank // slices]
    wall_s, cpu_s, y = 0.0, 0.0, torch.empty(0)
    for trial in (seed + 1_000_000, seed):
        drawn = np.random.default_rng(trial).standard_normal((2, size, size), dtype=np.float32)
        x, dy = (torch.from_numpy(d[rows].copy()) for d in drawn)
        x.requires_grad_()
        for weights in experts:
            weights.grad = None
        allreduce(comm, np.zeros(1))
        started, used = time.perf_counter(), time.process_time()
        y, _ = forward(comm, x, experts, grid=Grid(groups, slices), k=CHOICES)
        y.backward(dy)
        allreduce(comm, np.zeros(1))
        wall_s, cpu_s = time.perf_counter() - started, time.process_time() - used
    return wall_s, cpu_s, rows, y.detach().numpy()


def on_ranks(job: Job, groups: int, slices: int) -> SelfTimed:
    seed = next(job.seeds)
    ranks = run_actors(step, [(job.size, seed, groups, slices, 1)] * job.workers)
    y = np.empty((job.size, job.size), np.float32)
    for _, _, rows, part in ranks:
        y[rows] = part
    ((*_, expected),) = run_threads(step, [(job.size, seed, 1, 1, 1)])
    apart = float(np.abs(y - expected).max() / np.abs(expected).max())
    assert apart <= TOLERANCE, f"y differs by {apart:.1e} of its greatest value"
    return SelfTimed(max(wall_s for wall_s, *_ in ranks), {"cpu_s": max(r[1] for r in ranks), "apart": apart})


def tensor_parallel(job: Job) -> SelfTimed:
    return on_ranks(job, 1, job.workers)


def expert_parallel(job: Job) -> SelfTimed:
    return on_ranks(job, job.workers, 1)


def alone(job: Job, threads: int) -> SelfTimed:
    ((wall_s, cpu_s, *_),) = run_threads(step, [(job.size, next(job.seeds), 1, 1, threads)])
    return SelfTimed(wall_s, {"cpu_s": cpu_s})


def one_thread(job: Job) -> SelfTimed:
    return alone(job, 1)


def two_threads(job: Job) -> SelfTimed:
    return alone(job, 2)


def one_row_at_a_time(job: Job) -> SelfTimed:
    """The forward pass as the text books write it: two products of a vector and a matrix for each choice."""
    import torch

    torch.set_num_threads(1)
    experts = experts_of(job.size, 1, 1, 0)
    x = torch.from_numpy(np.random.default_rng(next(job.seeds)).standard_normal((job.size, job.size), np.float32))
    started, used = time.perf_counter(), time.process_time()
    with torch.no_grad():
        gates, chosen = torch.topk(torch.softmax(x @ experts.router, 1), CHOICES, dim=1)
        gates = gates / gates.sum(1, keepdim=True)
        y = torch.zeros(job.size, job.size)
        for row in range(job.size):
            for gate, expert in zip(gates[row], chosen[row].tolist(), strict=True):
                y[row] += gate * (torch.relu(x[row] @ experts.first[expert]) @ experts.second[expert])
    return SelfTimed(time.perf_counter() - started, {"cpu_s": time.process_time() - used})


def check(job: Job, ours: Any, peers: Mapping[str, Any]) -> str:
    outputs = {"ours": ours, **peers}
    found = ", ".join(f"{name} {output['apart']:.1e}" for name, output in outputs.items() if "apart" in output)
    return f"y of every run is that of one process, apart by (of the greatest value): {found}"


def details(job: Job, runs: Mapping[str, Sequence[Timed]]) -> dict[str, dict[str, Any]]:
    """Report the CPU seconds of a step, of the rank that took most: other processes distort them little."""
    return {
        name: {"cpu_s": round(statistics.median(run.output["cpu_s"] for run in timed), 4)}
        for name, timed in runs.items()
    }


CASE = Case(
    name="moe",
    size_of="rows, features, hidden columns and outputs",
    default_size=1000,
    prepare=prepare,
    ours=tensor_parallel,
    peers={
        "expert_parallel": expert_parallel,
        "one_thread": one_thread,
        "two_threads": two_threads,
        "one_row_at_a_time": one_row_at_a_time,
    },
    check=check,
    details=details,
    check_is_warm_up=True,
)
