"""All-reduce of float32 by eight ranks on one machine: ours against gloo's built-in, on the same ranks.

Ours is `auto` over shared memory. The peers run on the same Ray actors: gloo's built-in all-reduce, and our ring and
Rabenseifner over gloo's point-to-point sends. Each timed run is TRIALS trials, timed inside the ranks between barriers
(benchmarks/allreduce_ranks.py). The details have bus bandwidths, the variation over all trials, two ranks in shared
memory against memcpy, and every algorithm by size, which benchmarks/allreduce_sizes.py compares with the cost model.

    raymill bench allreduce [--size MIB] [--runs R] [--json FILE|-]
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import count
from typing import Any

from benchmarks.allreduce_ranks import Run, bus_bandwidth, copy, measure, spread, trials
from benchmarks.allreduce_sizes import adding, by_size
from benchmarks.harness import Case, SelfTimed, Setup, Timed
from benchmarks.sides import start_ray
from tasks.parallel.comm_actors import ActorComm, ActorGroup
from tasks.parallel.comm_gloo import GlooComm
from tasks.parallel.comm_shm import SharedMemoryComm

RANKS, TRIALS = 8, 10
OVER_GLOO = {"gloo": "gloo", "ring_gloo": "ring", "rabenseifner_gloo": "rabenseifner"}
TWO_RANKS_MOVE = 5.5  # times n, read and written by each of two: copied in and out 2 n each, a half of both added 1.5 n
WANTED_OF_GLOO, WANTED_OF_MEMCPY = 2.0, 0.5


@dataclass(kw_only=True)
class Job:
    elements: int
    group: ActorGroup
    seeds: dict[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return 4 * self.elements

    def next_seeds(self, side: str) -> list[int]:
        """Return seeds that this side has not had: trial k of every side has the same inputs."""
        numbers = self.seeds.setdefault(side, count(1))
        return [next(numbers) for _ in range(TRIALS)]


def prepare(setup: Setup) -> Job:
    start_ray(setup)
    over: list[type[ActorComm]] = [SharedMemoryComm, *([GlooComm] if find_spec("torch") else [])]
    group = setup.cleanup.enter_context(ActorGroup(RANKS, over))
    return Job(elements=setup.size << 18, group=group)


def side(name: str, algorithm: str, over: str) -> Callable[[Job], SelfTimed]:
    def run(job: Job) -> SelfTimed:
        asked = Run(algorithm, over, job.elements, job.next_seeds(name))
        seconds, digests = trials(job.group.run(measure, [(asked,)] * RANKS), asked.repeats)
        return SelfTimed(statistics.median(seconds), (seconds, digests))

    return run


def check(job: Job, ours: Any, peers: Mapping[str, Any]) -> str:
    for name, theirs in peers.items():
        assert ours[1] == theirs[1], f"the sums of ours and {name} differ"
    return f"{RANKS} ranks, {job.nbytes:,} bytes: every sum right, the same bits on all ranks and from all sides"


def details(job: Job, runs: Mapping[str, Sequence[Timed]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, timed in runs.items():
        found[name] = spread([second for run in timed for second in run.output[0]])
        bandwidth = bus_bandwidth(RANKS, job.nbytes, found[name]["trial_median_s"])
        found[name]["bus_bandwidth_gb_s"] = round(bandwidth / 1e9, 3)
    overs = ["shared memory", *(["gloo"] if "gloo" in found else [])]
    found["ours"]["two_ranks"], rows = two_ranks(job)
    found["ours"]["by_size"] = by_size(job.group, RANKS, overs, TRIALS) + rows
    found["ours"]["gamma_s_a_byte"] = adding()
    if "gloo" in found:
        of_gloo = {n: round(s["bus_bandwidth_gb_s"] / found["gloo"]["bus_bandwidth_gb_s"], 2) for n, s in found.items()}
        found["ours"]["bus_bandwidth_over_gloo"] = of_gloo
        reached = "reached" if of_gloo["ours"] >= WANTED_OF_GLOO else "MISSED"
        found["ours"]["verdict"] = f"{of_gloo['ours']} of gloo's bus bandwidth, asked {WANTED_OF_GLOO}: {reached}"
    return found


def two_ranks(job: Job) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure two ranks in shared memory and memcpy on both cores at once, bytes read and written a second.

    Beside what the ranks move, the result has what no all-reduce can do without, 2 n each, like a copy."""
    asked = Run("auto", "shared memory", job.elements, range(1, TRIALS + 1))
    with ActorGroup(2, [SharedMemoryComm]) as group:
        seconds, _ = trials(group.run(measure, [(asked,)] * 2), asked.repeats)
        copies, _ = trials(group.run(copy, [(asked,)] * 2))
        rows = by_size(group, 2, ["shared memory"], TRIALS)
    memcpy = 2 * 2 * job.nbytes / statistics.median(copies)
    moved, needed = (2 * times * job.nbytes / statistics.median(seconds) for times in (TWO_RANKS_MOVE, 2.0))
    reached = "reached" if moved >= WANTED_OF_MEMCPY * memcpy else "MISSED"
    found = {
        **spread(seconds),
        "moved_gb_s": round(moved / 1e9, 2),
        "memcpy_gb_s": round(memcpy / 1e9, 2),
        "moved_over_memcpy": round(moved / memcpy, 2),
        "needed_over_memcpy": round(needed / memcpy, 2),
        "verdict": f"{moved / memcpy:.2f} of memcpy's bandwidth, asked {WANTED_OF_MEMCPY}: {reached}",
    }
    return found, rows


def skip(_size: int) -> Mapping[str, str]:
    reason = 'needs torch: pip install --constraint constraints.txt --editable ".[lab]"'
    return {} if find_spec("torch") else dict.fromkeys(OVER_GLOO, reason)


CASE = Case(
    name="allreduce",
    size_of="MiB",
    default_size=32,
    prepare=prepare,
    ours=side("ours", "auto", "shared memory"),
    peers={name: side(name, algorithm, "gloo") for name, algorithm in OVER_GLOO.items()},
    check=check,
    measure_input=lambda job: {"bytes": job.nbytes, "ranks": RANKS},
    details=details,
    check_is_warm_up=True,
    skip=skip,
)
