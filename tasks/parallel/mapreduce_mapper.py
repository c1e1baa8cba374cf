"""The mappers of MapReduce: they map inputs, merge and split the records, and push the pieces to the reducers.

tasks/parallel/mapreduce.py describes how they work together and what holds when one of them dies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tasks.core import faults
from tasks.core.errors import RunError
from tasks.parallel.external_merge import Merging
from tasks.parallel.key_hash import partition_by_hash
from tasks.parallel.mapreduce_calls import LOST, Owner, outcome
from tasks.parallel.pool import ASIDE

if TYPE_CHECKING:
    from tasks.parallel.mapreduce_job import Job

PIECE_BYTES = 16 << 20  # a mapper merges its records above this size, and pushes them if more than half remains


@dataclass(frozen=True)
class Mapped:
    """The outcome of mapping an input: ids of the reducers that have all of it, and of those that died."""

    taken: set[int]
    lost: set[int]


class Mapper:
    """Maps inputs and pushes their pieces to the reducers."""

    def __init__(self, job: Job, partitions: int) -> None:
        self.job, self.partitions = job, partitions

    def map(self, index: int, attempt: int, given: Any, owners: Sequence[Owner]) -> Mapped:
        """Map one input; return which of these reducers have it and which died."""
        lost: set[int] = set()
        waiting: dict[int, Any] = {}
        number = 0

        def answered(calls: dict[int, Any]) -> None:
            lost.update(owner for owner, call in calls.items() if outcome(call) is LOST)

        for number, piece in enumerate(pieces(self.job, given), start=1):
            parts = split(self.job, piece, self.partitions)
            sent = {
                # One argument per partition, so that Ray's shared memory can free each of them separately.
                o.id: o.actor.call.options(concurrency_group=ASIDE).remote(
                    "take", index, attempt, o.partitions, *(parts[p] for p in o.partitions)
                )
                for o in owners
                if o.id not in lost
            }
            # Back-pressure: a mapper prepares only one more piece while the reducers take the last.
            answered(waiting)
            waiting = sent
            if number > 1:
                faults.point("mapreduce", "mapped", index)
            if not sent:
                break
        answered(waiting)
        faults.point("mapreduce", "mapped", index)
        reducers = {o.id: o.actor.call.options(concurrency_group=ASIDE) for o in owners if o.id not in lost}
        answered({id: call.remote("admit", index, attempt, number) for id, call in reducers.items()})
        return Mapped(taken={o.id for o in owners} - lost, lost=lost)


def pieces(job: Job, given: Any) -> Iterator[pa.Table]:
    """Yield the records of one input, merged as they arrive, in pieces of up to about PIECE_BYTES."""
    held = Merging(job.combine, unique=job.unique)
    for table in job.map(given):
        held.add(table.replace_schema_metadata(None))
        if held.nbytes > PIECE_BYTES:
            held.merge()
            if held.nbytes > PIECE_BYTES // 2:
                yield from held.drain()
    yield from held.drain()


def split(job: Job, records: pa.Table, partitions: int) -> list[pa.Table]:
    """Return the records of each partition. Raises RunError for missing or null keys and for a wrong partitioning."""
    for name in job.key:
        if name not in records.column_names:
            raise RunError(f"no key column {name} among {', '.join(records.column_names)}", fix="map must return it")
        if nulls := records[name].null_count:
            raise RunError(f"the key column {name} has {nulls:,} nulls", fix="map must drop null keys or replace them")
    parts = (job.partition or (lambda r, p: partition_by_hash(r, job.key, p)))(records, partitions)
    if len(parts) != partitions or sum(part.num_rows for part in parts) != records.num_rows:
        raise RunError(
            f"partition returned {len(parts)} tables with {sum(part.num_rows for part in parts):,} rows "
            f"for {partitions} partitions and {records.num_rows:,} rows"
        )
    return parts
