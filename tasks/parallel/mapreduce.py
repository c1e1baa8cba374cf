"""MapReduce with Ray actors, after Dean and Ghemawat (2004), over Arrow tables.

Mappers take inputs (paths, not data) as they become free, map each to tables of keyed records, merge equal keys
(combine), split by key (partition) and push each piece straight to the reducer that owns its partition. Reducers merge
the pieces as they come, put on disk what outgrows memory, and reduce each partition in key order once all inputs are
in. The master, which is `run`, sees input indices and what `reduce` returns, nothing else. A hot key costs a reducer
one row a piece, however often it occurs.

Faults. A mapper or reducer that dies is replaced by a new one. What a dead mapper was at is mapped again; for a dead
reducer, all inputs are, and pushed to its replacement only. No record may count twice or get lost by that, so

- a reducer keeps the pieces of an unfinished input apart, by *attempt*, and admits them when the mapper says that all
  are there. An attempt to map an input is admitted whole or not at all, and one for each input. To number the pieces
  and take each once would need less room, but two attempts may well cut their pieces in different places: the order
  of `combine`'s rows, and with it what fits into a piece, is nobody's promise;
- attempts are numbered in the order in which they begin: a reducer that has seen a later one drops what comes of an
  earlier, such as a dead mapper's last messages.

Pieces kept apart are merged and go to disk as others do, and each mapper has one input at a time, so the room is that
of one input's records a mapper at most. Reducers may admit different attempts of an input: each key's records are the
same in all. For that `map` must give the same records each time, in any order, and cut in any places. `reduce` may
run twice for a partition, on the same records; what it writes under a fixed name is merely written again.

So the result depends neither on the number of actors, nor on timing, memory or deaths, if `combine` is associative and
commutative and merges all rows of a key into one; if it leaves several, these come in any order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from tasks.core.errors import TransientError
from tasks.parallel import pool
from tasks.parallel.external_merge import by_key, merged
from tasks.parallel.mapreduce_job import Job
from tasks.parallel.mapreduce_workers import LOST, Owner, Worker, outcome, split
from tasks.parallel.pool import ASIDE

# One or two deaths are bad luck: a node taken away, a neighbour that ate the memory. What dies again and again has its
# cause in the job itself, and each time costs up to the whole map phase.
MAX_DEATHS = 3


def run(
    job: Job,
    inputs: Sequence[Any],
    *,
    partitions: int,
    mappers: int,
    reducers: int,
    spill_bytes: int = 256 << 20,
    on_mapped: Callable[[int], None] | None = None,
) -> list[Any]:
    """Run a job on Ray; returns the results of `reduce`, by partition.

    A reducer holds up to `spill_bytes` of records in memory, and needs about as much again to merge them. on_mapped is
    called here with each input's index, once, when all reducers have it.

    What the job's functions raise comes through as it is. TransientError if more than MAX_DEATHS actors died, RunError
    for records that cannot be keyed or that outgrow the disk.
    """
    master = _Master(job, inputs, partitions, spill_bytes, on_mapped)
    done = False
    try:
        results = master.run(mappers, reducers)
        done = not master.dead
        return results
    finally:
        pool.release(master.actors, done=done)


def run_in_process(job: Job, inputs: Sequence[Any], *, partitions: int) -> list[Any]:
    """The same without Ray, all in memory: the oracle of the tests."""
    pieces: list[list[pa.Table]] = [[] for _ in range(partitions)]
    for given in inputs:
        for table in job.map(given):
            for piece, of_partition in zip(split(job, table, partitions), pieces, strict=True):
                of_partition.append(piece)
    whole = [[by_key(merged(tables, job.combine), job.key)] if tables else [] for tables in pieces]
    return [job.reduce(p, (t for t in tables if t.num_rows)) for p, tables in enumerate(whole)]


class _Master:
    """Gives out the work, and replaces who dies."""

    def __init__(
        self,
        job: Job,
        inputs: Sequence[Any],
        partitions: int,
        spill_bytes: int,
        on_mapped: Callable[[int], None] | None,
    ) -> None:
        self.job, self.inputs, self.partitions = job, inputs, partitions
        self.spill_bytes, self.on_mapped = spill_bytes, on_mapped
        self.actors: list[Any] = []  # all that were ever made
        self.dead: list[Any] = []  # those of them that died
        self.results: dict[int, Any] = {}  # by partition

        self.todo = list(range(len(inputs)))[::-1]  # inputs to be mapped, the next one last
        self.attempts = itertools.count()
        self.idle: list[Any] = []  # mappers
        self.mapping: dict[Any, tuple[Any, int]] = {}  # calls under way: mapper and input
        self.told: set[int] = set()  # inputs of which on_mapped has heard

        self.reducers = itertools.count()
        self.owners: dict[int, Owner] = {}  # the living reducers, by id
        self.missing: dict[int, set[int]] = {}  # inputs that each of them still lacks
        self.reducing: dict[Any, tuple[int, int]] = {}  # calls under way: reducer and partition

    def run(self, mappers: int, reducers: int) -> list[Any]:
        import ray

        mappers, reducers = min(mappers, len(self.inputs)), min(reducers, self.partitions)
        workers = self._hire(max(mappers, reducers))
        for first in range(reducers):
            self._take_as_reducer(workers[first], range(first, self.partitions, reducers))
        self.idle += workers[:mappers]
        while len(self.results) < self.partitions:
            self._start_mapping()
            done, _ = ray.wait([*self.mapping, *self.reducing])
            for call in done:
                if call in self.mapping:
                    self._mapped(*self.mapping.pop(call), outcome(call))
                else:
                    self._reduced(*self.reducing.pop(call), outcome(call))
        return [self.results[partition] for partition in range(self.partitions)]

    def _start_mapping(self) -> None:
        while self.todo and self.idle:
            index, mapper = self.todo.pop(), self.idle.pop()
            owners = [owner for owner in self.owners.values() if index in self.missing[owner.id]]
            call = mapper.call.remote("map", index, next(self.attempts), self.inputs[index], owners)
            self.mapping[call] = mapper, index

    def _mapped(self, mapper: Any, index: int, found: Any) -> None:
        if found is LOST:
            self._bury(mapper)
            self.idle += self._hire(1, cpus=0)
        else:
            self.idle.append(mapper)
            for owner in found.taken & self.owners.keys():
                self.missing[owner].discard(index)
                if not self.missing[owner]:
                    self._start_reducing(self.owners[owner])
            for owner in found.lost:
                self._replace_reducer(owner)
        if any(index in missing for missing in self.missing.values()):
            if index not in self.todo:
                self.todo.append(index)
        elif index not in self.told:
            self.told.add(index)
            if self.on_mapped:
                self.on_mapped(index)

    def _start_reducing(self, owner: Owner) -> None:
        for partition in owner.partitions:
            call = owner.actor.call.options(concurrency_group=ASIDE).remote("reduce", partition)
            self.reducing[call] = owner.id, partition

    def _reduced(self, owner: int, partition: int, found: Any) -> None:
        if found is LOST:
            self._replace_reducer(owner)
        else:
            self.results[partition] = found

    def _replace_reducer(self, dead: int) -> None:
        """Bury a reducer, unless another call has already said so; its unfinished partitions begin anew."""
        if dead not in self.owners:
            return
        owner = self.owners.pop(dead)
        del self.missing[dead]
        self._bury(owner.actor)
        self._take_as_reducer(self._hire(1, cpus=0)[0], [p for p in owner.partitions if p not in self.results])
        under_way = {index for _, index in self.mapping.values()}  # these come back by themselves: somebody lacks them
        self.todo = sorted(set(range(len(self.inputs))) - under_way, reverse=True)

    def _bury(self, actor: Any) -> None:
        import ray

        if any(actor is other for other in self.dead):  # it was a mapper and a reducer
            return
        ray.kill(actor)  # it may be out of reach and alive
        self.dead.append(actor)
        if len(self.dead) > MAX_DEATHS:
            raise TransientError(
                f"{len(self.dead)} mappers and reducers died",
                where="MapReduce",
                fix="the stage is tried again; if that does not help, see Ray's logs for what they died of: "
                "most often memory, then use smaller inputs, fewer workers or a smaller spill size",
            )

    def _hire(self, count: int, cpus: float = pool.CPUS) -> list[Any]:
        """New actors. No CPU for a replacement: those of a dead one's node may be gone, and the others keep theirs."""
        given = [(self.job, self.partitions, self.spill_bytes)] * count
        hired = pool.hire(count, Worker, given, cpus=cpus)
        self.actors += hired
        return hired

    def _take_as_reducer(self, actor: Any, partitions: Sequence[int]) -> None:
        owner = Owner(next(self.reducers), actor, tuple(partitions))
        self.owners[owner.id] = owner
        self.missing[owner.id] = set(range(len(self.inputs)))
        if not self.inputs:
            self._start_reducing(owner)
