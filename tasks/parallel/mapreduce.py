"""MapReduce with Ray actors, after Dean and Ghemawat (2004), over Arrow tables.

Mappers take inputs (paths, not data) as they become free, map each to a table of keyed records, merge equal keys
(combine), split by key hash (partition) and hand each piece straight to the reducer that owns its partition.
Reducers merge pieces as they come and finish each partition once all inputs are in. The driver sees input indices
and whatever small result `finish` returns, nothing else.

A piece carries its input's index and is taken once, so an input may safely be mapped again. The result does not
depend on the number of actors or on timing as long as `combine` is associative and commutative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tasks.engines.cluster import gather

MERGE_AFTER_PIECES = (
    16  # merge waiting pieces in a reducer now and then, so that memory follows the keys, not the inputs
)


@dataclass(frozen=True)
class Job:
    """Plain functions over Arrow tables; they are pickled to the actors.

    map(input) -> records. combine(records) -> records with each key once. partition(records, R) -> R tables, the same
    key always in the same one. finish(partition index, records) -> a small result for the driver.
    """

    map: Callable[[Any], pa.Table]
    combine: Callable[[pa.Table], pa.Table]
    partition: Callable[[pa.Table, int], list[pa.Table]]
    finish: Callable[[int, pa.Table], Any]


class Mapper:
    """Maps inputs and pushes their pieces to the reducers."""

    def __init__(self, job: Job, reducers: Sequence[Any], partitions: int) -> None:
        self.job, self.reducers, self.partitions = job, reducers, partitions

    def run(self, index: int, given: Any) -> int:
        """Map one input; returns its index when every reducer has taken its piece."""
        pieces = self.job.partition(self.job.combine(self.job.map(given)), self.partitions)
        taken = [self.reducers[p % len(self.reducers)].take.remote(p, index, piece) for p, piece in enumerate(pieces)]
        gather(taken)  # also the back-pressure: a mapper is never more than one input ahead of the reducers
        return index


class Reducer:
    """Owns some partitions: takes pieces, merges them, finishes."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.seen: dict[int, set[int]] = {}
        self.waiting: dict[int, list[pa.Table]] = {}

    def take(self, partition: int, index: int, piece: pa.Table) -> None:
        """Take the piece of input `index`; a second delivery of the same piece changes nothing."""
        seen = self.seen.setdefault(partition, set())
        if index in seen:
            return
        seen.add(index)
        waiting = self.waiting.setdefault(partition, [])
        waiting.append(piece)
        if len(waiting) >= MERGE_AFTER_PIECES:
            self.waiting[partition] = [self.job.combine(pa.concat_tables(waiting))]

    def finish(self, partition: int) -> Any:
        merged = self.job.combine(pa.concat_tables(self.waiting.pop(partition)))
        return self.job.finish(partition, merged)


def run(job: Job, inputs: Sequence[Any], *, partitions: int, mappers: int, reducers: int) -> list[Any]:
    """Run a job on Ray; returns the results of `finish`, by partition."""
    import ray

    # Reducers only wait and merge: a fraction of a CPU each, so that mappers always find room.
    reducer_actor = ray.remote(Reducer).options(num_cpus=0.1)
    mapper_actor = ray.remote(Mapper).options(num_cpus=0.5)
    owners: list[Any] = [reducer_actor.remote(job) for _ in range(min(reducers, partitions))]
    workers: list[Any] = [mapper_actor.remote(job, owners, partitions) for _ in range(min(mappers, len(inputs)))]
    try:
        todo = list(enumerate(inputs))[::-1]
        busy: dict[Any, Any] = {}
        idle = list(workers)
        while todo or busy:
            while todo and idle:
                worker = idle.pop()
                busy[worker.run.remote(*todo.pop())] = worker
            done, _ = ray.wait(list(busy))
            for ref in done:
                gather([ref])
                idle.append(busy.pop(ref))
        return gather(owners[p % len(owners)].finish.remote(p) for p in range(partitions))
    finally:
        for actor in (*workers, *owners):
            ray.kill(actor)


def run_in_process(job: Job, inputs: Sequence[Any], *, partitions: int) -> list[Any]:
    """The same without Ray: the oracle of the tests."""
    split = [job.partition(job.combine(job.map(i)), partitions) for i in inputs]
    return [job.finish(p, job.combine(pa.concat_tables([pieces[p] for pieces in split]))) for p in range(partitions)]
