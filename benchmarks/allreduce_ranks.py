"""Time all-reduces inside the ranks: fresh random inputs each trial, between barriers, every result checked.

A trial's time is from the first rank's start to the last rank's end, by the machine's one monotonic clock. Inputs are
whole numbers below 2^16 in float32, whose sums are exact in any order, so that all algorithms must give the same bits.
Only times and digests leave the ranks.
"""

from __future__ import annotations

import itertools
import statistics
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.core.errors import RunError
from tasks.parallel.allreduce import ALGORITHMS
from tasks.parallel.allreduce_levels import TwoLevels
from tasks.parallel.allreduce_table import fastest
from tasks.parallel.comm import Array, Comm

REPEATED_BELOW = 256 << 10  # bytes: several all-reduces of shorter arrays make a trial


@dataclass(frozen=True)
class Run:
    """An algorithm ("auto" too) over a kind of group, arrays of so many float32, a seed for each trial."""

    algorithm: str
    over: str
    elements: int
    seeds: Sequence[int]
    per_node: int = 4  # for hierarchical

    @property
    def repeats(self) -> int:
        return max(1, min(4, REPEATED_BELOW // (4 * self.elements)))


Ended = tuple[float, float, int]  # when it began and ended, and the result's digest


def measure(*given: Any) -> list[Ended]:
    """Run one rank's trials; the first is a warm-up and is not returned. given: the comms, then a Run."""
    *comms, run = given
    over = {comm.kind: comm for comm in comms}
    shared: Comm = over["shared memory"]
    comm: Comm = over[run.over]
    name = fastest(run.over, comm.world_size, 4 * run.elements) if run.algorithm == "auto" else run.algorithm
    if name == "hierarchical":
        comm = TwoLevels(shared, comm, run.per_node)
    reduce = ALGORITHMS[name]
    ended = []
    for trial, seed in enumerate([run.seeds[0], *run.seeds]):
        arrays = [inputs(comm, run.elements, seed, repeat) for repeat in range(run.repeats)]
        comm.phase = shared.phase = f"trial {trial} of {name}"
        shared.barrier()
        began = time.perf_counter()
        for array in arrays:
            reduce(comm, array, np.add)
        end = time.perf_counter()
        shared.phase = f"end of trial {trial} of {name}"
        shared.barrier()
        digest = 0
        for repeat, array in enumerate(arrays):
            check(comm, array, seed, repeat, name)
            digest = zlib.crc32(array.data, digest)
        ended.append((began, end, digest))
    return ended[1:]


def inputs(comm: Comm, elements: int, seed: int, repeat: int) -> Array:
    """Make this rank's array, from slices that other ranks can make alone."""
    made = [_slice(seed, repeat, comm.rank, part, size) for part, size in enumerate(_sizes(comm, elements))]
    return np.concatenate(made)


def check(comm: Comm, result: Array, seed: int, repeat: int, name: str) -> None:
    """Compare this rank's slice with all ranks' inputs. Digests then show that the other slices are equal, too."""
    sizes = _sizes(comm, len(result))
    first = sum(sizes[: comm.rank])
    size = sizes[comm.rank]
    expected = np.zeros(size, np.float32)
    for rank in range(comm.world_size):
        expected += _slice(seed, repeat, rank, comm.rank, size)
    if not np.array_equal(result[first : first + size], expected):
        raise RunError(f"{name} gave wrong sums on rank {comm.rank}", where="bench allreduce")


def copy(*given: Any) -> list[Ended]:
    """Time memcpy of the same arrays on all ranks at once, from memory to memory that are both in use already."""
    *comms, run = given
    shared: Comm = next(comm for comm in comms if comm.kind == "shared memory")
    source = inputs(shared, run.elements, run.seeds[0], 0)
    target = source.copy()
    ended = []
    for trial in range(len(run.seeds)):
        shared.phase = f"copy {trial}"
        shared.barrier()
        began = time.perf_counter()
        np.copyto(target, source)
        ended.append((began, time.perf_counter(), 0))
    return ended


def trials(ranks: Sequence[Sequence[Ended]], repeats: int = 1) -> tuple[list[float], list[int]]:
    """Return seconds per all-reduce and the digest of each trial. Raises RunError where ranks' results differ."""
    seconds, digests = [], []
    for trial in zip(*ranks, strict=True):
        seconds.append((max(end for _, end, _ in trial) - min(began for began, _, _ in trial)) / repeats)
        if len({digest for _, _, digest in trial}) > 1:
            raise RunError("the ranks' results differ", where="bench allreduce")
        digests.append(trial[0][2])
    return seconds, digests


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    """Return median, least and most, and the coefficient of variation."""
    return {
        "trials": len(seconds),
        "trial_median_s": round(statistics.median(seconds), 6),
        "trial_min_s": round(min(seconds), 6),
        "trial_max_s": round(max(seconds), 6),
        "variation": round(statistics.stdev(seconds) / statistics.mean(seconds), 3),
    }


def bus_bandwidth(world: int, nbytes: int, seconds: float) -> float:
    """Bytes a second that each rank's link carries in an all-reduce with the least traffic (as nccl-tests counts)."""
    return 2 * (world - 1) / world * nbytes / seconds


def _sizes(comm: Comm, elements: int) -> list[int]:
    edges = [elements * i // comm.world_size for i in range(comm.world_size + 1)]
    return [b - a for a, b in itertools.pairwise(edges)]


def _slice(seed: int, repeat: int, rank: int, part: int, size: int) -> Array:
    rng = np.random.default_rng([seed, repeat, rank, part])
    return rng.integers(0, 1 << 16, size, np.uint16).astype(np.float32)
