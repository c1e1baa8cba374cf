"""Who gets which chunk next: the three strategies, without Ray and without a clock.

A plan hands out *units*, one or several chunks that a worker does in one go. It knows nothing of failures and results:
`partition_master` counts these and does again what has to be done again.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from tasks.core.errors import InputError
from tasks.parallel.chunks import Chunk

Unit = tuple[Chunk, ...]
Strategy = Literal["uniform", "dynamic", "sharded"]
STRATEGIES: tuple[Strategy, ...] = ("uniform", "dynamic", "sharded")
AHEAD = 2  # units that a worker has at most: the next one waits at the worker while it does the first


class Speeds:
    """Bytes per second of each worker, over all that it has done."""

    def __init__(self) -> None:
        self._bytes: dict[int, float] = {}
        self._seconds: dict[int, float] = {}

    def note(self, worker: int, size: int, seconds: float) -> None:
        self._bytes[worker] = self._bytes.get(worker, 0) + max(size, 1)
        self._seconds[worker] = self._seconds.get(worker, 0.0) + seconds

    def known(self) -> bool:
        return bool(self._bytes)

    def seconds(self, worker: int, size: int) -> float:
        """Return how long a worker would take for so many bytes; one that has done nothing yet is like the fastest."""
        of = [worker] if worker in self._bytes else list(self._bytes)
        return size * min((self._seconds[w] / self._bytes[w] for w in of), default=1.0)


class Plan(Protocol):
    """`take` returns a worker's next unit, or None. `speculates`: may an idle worker repeat what another has begun?"""

    speculates: bool
    steals: int

    def ahead(self, workers: int) -> int:
        """Return how many units a worker may have at a time."""

    def take(self, worker: int, speeds: Speeds) -> Unit | None: ...

    def replace(self, dead: int, worker: int) -> None:
        """Give a dead worker's units to its replacement."""


class Uniform:
    """Equal shards of consecutive chunks, one per worker, fixed in advance."""

    speculates = False
    steals = 0

    def __init__(self, chunks: Sequence[Chunk], workers: int) -> None:
        self.queues = {worker: deque(run) for worker, run in enumerate(equal_runs(chunks, workers))}

    def ahead(self, workers: int) -> int:
        return AHEAD

    def take(self, worker: int, speeds: Speeds) -> Unit | None:
        queue = self.queues.get(worker)
        return (queue.popleft(),) if queue else None

    def replace(self, dead: int, worker: int) -> None:
        self.queues[worker] = self.queues.pop(dead, deque())


class Dynamic(Uniform):
    """Workers pull one chunk after the other from a run of their own, then steal from the others.

    A worker whose run is done takes the last chunk of the run that would take longest to its owner, as measured so far
    (work stealing, Blumofe and Leiserson 1999; the driver holds all runs, so stealing one chunk costs nothing). When
    nothing is left, an idle worker repeats another's chunk where it should be done sooner (speculative execution,
    Zaharia et al. 2008, LATE).
    """

    speculates = True

    def ahead(self, workers: int) -> int:
        # What waits at a worker cannot be stolen: near the end no chunk waits.
        return AHEAD if sum(map(len, self.queues.values())) > 2 * AHEAD * workers else 1

    def take(self, worker: int, speeds: Speeds) -> Unit | None:
        if own := super().take(worker, speeds):
            return own
        left = {w: speeds.seconds(w, sum(c.bytes for c in queue)) for w, queue in self.queues.items() if queue}
        if not left:
            return None
        self.steals += 1
        return (self.queues[max(left, key=lambda w: left[w])].pop(),)


class Sharded:
    """Shards of about equal size, the largest first to whoever is free; a worker reads a whole shard at once."""

    speculates = False
    steals = 0

    def __init__(self, chunks: Sequence[Chunk], workers: int, shard_bytes: int) -> None:
        self._shards = deque(balanced_shards(chunks, workers, shard_bytes))

    def ahead(self, workers: int) -> int:
        return 1

    def take(self, worker: int, speeds: Speeds) -> Unit | None:
        return self._shards.popleft() if self._shards else None

    def replace(self, dead: int, worker: int) -> None:
        pass


def plan_of(strategy: Strategy, chunks: Sequence[Chunk], workers: int, shard_bytes: int) -> Plan:
    if strategy == "sharded":
        return Sharded(chunks, workers, shard_bytes)
    plans: Mapping[str, type[Uniform]] = {"uniform": Uniform, "dynamic": Dynamic}
    return plans[strategy](chunks, workers)


def equal_runs(chunks: Sequence[Chunk], workers: int) -> list[Sequence[Chunk]]:
    """Cut the chunks into runs whose lengths differ by one at most."""
    borders = [len(chunks) * i // workers for i in range(workers + 1)]
    return [chunks[a:b] for a, b in itertools.pairwise(borders)]


def balanced_shards(chunks: Sequence[Chunk], workers: int, shard_bytes: int) -> list[Unit]:
    """Pack chunks into shards of at most `shard_bytes`, the same number for each worker unless they do not fit so.

    Greedy longest processing time (Graham 1969): the largest chunk first, each to the shard with the least so far,
    which is within 4/3 - 1/(3m) of the best for m shards. Returns the largest shard first. Raises InputError for a
    chunk larger than a shard may be.
    """
    for chunk in chunks:
        if chunk.bytes > shard_bytes:
            raise InputError(
                f"{chunk.bytes:,} bytes, and a shard may have {shard_bytes:,}",
                where=str(chunk),
                fix="smaller chunks or row groups, or larger shards",
            )
    rounds = -(-sum(chunk.bytes for chunk in chunks) // (workers * shard_bytes))
    count = workers * max(1, rounds)
    shards: list[list[Chunk]] = [[] for _ in range(count)]
    sizes = [(0, i) for i in range(count)]
    for chunk in sorted(chunks, key=lambda c: (-c.bytes, c.index)):
        size, i = heapq.heappop(sizes)
        if size + chunk.bytes > shard_bytes:  # nor has any other room
            heapq.heappush(sizes, (size, i))
            size, i = 0, len(shards)
            shards.append([])
        shards[i].append(chunk)
        heapq.heappush(sizes, (size + chunk.bytes, i))
    filled = [tuple(sorted(shard, key=lambda c: c.index)) for shard in shards if shard]
    return sorted(filled, key=lambda shard: (-sum(c.bytes for c in shard), shard[0].index))
