"""MapReduce with Ray actors, after Dean and Ghemawat (2004), over Arrow tables.

A mapper takes an input (a path, not data) when it is free, maps it to tables of keyed records, merges equal keys
(combine), splits by key (partition) and pushes each piece straight to the reducer that owns its partition. Reducers
merge the pieces as they arrive, spill to disk when memory is short, and reduce each partition in key order once they
have all inputs. The master, which is `run`, sees only input indices and the results of `reduce`. A hot key costs a
reducer one row per piece, however often it occurs.

Faults. A new actor replaces a mapper or reducer that dies. After a mapper's death its unfinished input is mapped again.
After a reducer's death all inputs are mapped again and pushed to its replacement only. So that no record counts twice
or gets lost,

- a reducer keeps the pieces of an unfinished input apart, by *attempt*, and admits them when the mapper reports that
  all are sent. It admits one attempt per input, as a whole. Numbering the pieces and taking each number once would need
  less memory, but two attempts may cut their pieces in different places, since `combine` may return rows in any order;
- attempts are numbered in the order in which they begin: a reducer that has seen a later attempt drops the messages of
  an earlier one, such as a dead mapper's last.

Pieces kept apart are merged and spilled like all others. Each mapper has one input at a time, so they need at most the
room of one input's records per mapper. Reducers may admit different attempts at an input, since each key's records are
the same in all. `map` must therefore return the same records each time, in any order and cut in any places. `reduce`
may run twice for a partition, on the same records, and then overwrites what it wrote under a fixed name.

So the result does not depend on the number of actors, timing, memory or deaths, if `combine` is associative and
commutative and merges all rows of a key into one. If it leaves several rows of a key, they come in any order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from tasks.core.errors import TransientError
from tasks.parallel import pool
from tasks.parallel.external_merge import by_key, merged
from tasks.parallel.mapreduce_calls import LOST, Owner, outcome
from tasks.parallel.mapreduce_job import Job
from tasks.parallel.mapreduce_mapper import split
from tasks.parallel.mapreduce_workers import Worker
from tasks.parallel.pool import ASIDE

# One or two deaths are bad luck: a node taken away, a neighbour that used up the memory. Repeated deaths have their
# cause in the job itself, and each costs up to the whole map phase.
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
    """Run a job on Ray; return the results of `reduce`, by partition.

    A reducer holds up to `spill_bytes` of records in memory, and needs about as much again to merge them. on_mapped is
    called in this process, once per input with its index, when all reducers have the input.

    Errors of the job's functions are raised unchanged. Raises TransientError if more than MAX_DEATHS actors died,
    RunError for records that cannot be keyed or that outgrow the disk.
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
    """Run a job without Ray, all in memory, as the tests' oracle."""
    pieces: list[list[pa.Table]] = [[] for _ in range(partitions)]
    for given in inputs:
        for table in job.map(given):
            for piece, of_partition in zip(split(job, table, partitions), pieces, strict=True):
                of_partition.append(piece)
    whole = [[by_key(merged(tables, job.combine), job.key)] if tables else [] for tables in pieces]
    return [job.reduce(p, (t for t in tables if t.num_rows)) for p, tables in enumerate(whole)]


class _Master:
    """Assigns the work and replaces dead actors."""

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
        self.actors: list[Any] = []  # all actors ever hired
        self.dead: list[Any] = []  # those of them that died
        self.results: dict[int, Any] = {}  # by partition

        self.todo = list(range(len(inputs)))[::-1]  # inputs to map, the next one last
        self.attempts = itertools.count()
        self.idle: list[Any] = []  # mappers
        self.mapping: dict[Any, tuple[Any, int]] = {}  # mapper and input by pending call
        self.reported: set[int] = set()  # inputs already passed to on_mapped

        self.reducers = itertools.count()
        self.owners: dict[int, Owner] = {}  # the living reducers, by id
        self.missing: dict[int, set[int]] = {}  # inputs that each of them still lacks
        self.reducing: dict[Any, tuple[int, int]] = {}  # reducer and partition by pending call

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

    def _mapped(self, mapper: Any, index: int, result: Any) -> None:
        if result is LOST:
            self._bury(mapper)
            self.idle += self._hire(1, cpus=0)
        else:
            self.idle.append(mapper)
            for owner in result.taken & self.owners.keys():
                self.missing[owner].discard(index)
                if not self.missing[owner]:
                    self._start_reducing(self.owners[owner])
            for owner in result.lost:
                self._replace_reducer(owner)
        if any(index in missing for missing in self.missing.values()):
            if index not in self.todo:
                self.todo.append(index)
        elif index not in self.reported:
            self.reported.add(index)
            if self.on_mapped:
                self.on_mapped(index)

    def _start_reducing(self, owner: Owner) -> None:
        for partition in owner.partitions:
            call = owner.actor.call.options(concurrency_group=ASIDE).remote("reduce", partition)
            self.reducing[call] = owner.id, partition

    def _reduced(self, owner: int, partition: int, result: Any) -> None:
        if result is LOST:
            self._replace_reducer(owner)
        else:
            self.results[partition] = result

    def _replace_reducer(self, dead: int) -> None:
        """Replace a dead reducer, unless already replaced after another call; its unfinished partitions start again."""
        if dead not in self.owners:
            return
        owner = self.owners.pop(dead)
        del self.missing[dead]
        self._bury(owner.actor)
        self._take_as_reducer(self._hire(1, cpus=0)[0], [p for p in owner.partitions if p not in self.results])
        under_way = {index for _, index in self.mapping.values()}  # `_mapped` queues these: the new reducer lacks them
        self.todo = sorted(set(range(len(self.inputs))) - under_way, reverse=True)

    def _bury(self, actor: Any) -> None:
        import ray

        if any(actor is other for other in self.dead):  # an actor can be both mapper and reducer
            return
        ray.kill(actor)  # it may be alive but unreachable
        self.dead.append(actor)
        if len(self.dead) > MAX_DEATHS:
            raise TransientError(
                f"{len(self.dead)} mappers and reducers died",
                where="MapReduce",
                fix="the stage is tried again; if that fails too, see Ray's logs for the cause. "
                "It is most often memory: use smaller inputs, fewer workers or a smaller spill size",
            )

    def _hire(self, count: int, cpus: float = pool.CPUS) -> list[Any]:
        """Hire actors. A replacement asks for no CPU: a dead node takes its CPUs along, and the others are in use."""
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
