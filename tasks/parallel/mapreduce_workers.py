"""The actors of MapReduce: mappers push pieces; reducers take, merge and reduce them.

tasks/parallel/mapreduce.py describes how they work together and what holds when one of them dies. One process can be
both, each in its own thread: a process costs a second of a core to start, and a reducer mostly waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tasks.core import faults
from tasks.core.errors import RunError, TransientError
from tasks.engines.cluster import gather, is_lost
from tasks.parallel.external_merge import ExternalMerge, Merging, SpillFile
from tasks.parallel.key_hash import partition_by_hash
from tasks.parallel.pool import ASIDE

if TYPE_CHECKING:
    from tasks.parallel.mapreduce_job import Job

PIECE_BYTES = 16 << 20  # a mapper merges its records above this size, and pushes them if more than half remains
LOST = object()  # the outcome of a call whose actor died


@dataclass(frozen=True)
class Owner:
    """A reducer, as the mappers address it. A replacement has a new id."""

    id: int
    actor: Any
    partitions: tuple[int, ...]


@dataclass(frozen=True)
class Mapped:
    """The outcome of mapping an input: ids of the reducers that have all of it, and of those that died."""

    taken: set[int]
    lost: set[int]


def outcome(call: Any) -> Any:
    """Return the result of a call to an actor, or LOST if the actor died. The call's own errors are raised."""
    try:
        return gather([call])[0]
    except TransientError as error:
        cause = error.__cause__
        if cause is None or not is_lost(cause):
            raise  # raised by the function itself
        return LOST


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


class Reducer:
    """Owns some partitions: takes their pieces, merges them and reduces them."""

    def __init__(self, job: Job, spill_bytes: int) -> None:
        # Arrow's strings have 32-bit offsets: a column of more than 2 GiB cannot be sorted in one piece.
        self.job, self.spill_bytes = job, min(spill_bytes, 1 << 30)
        self.file = SpillFile()
        self.admitted: dict[int, ExternalMerge] = {}
        self.inputs: set[int] = set()  # inputs admitted
        self.attempts: dict[int, Attempt] = {}  # the latest attempt at each other input

    def take(self, index: int, attempt: int, partitions: Sequence[int], *parts: pa.Table) -> None:
        """Take the next piece of an attempt at input `index`: one table per partition in `partitions`."""
        if index in self.inputs:
            return
        kept = self.attempts.get(index)
        if kept is None or kept.number < attempt:
            kept = self.attempts[index] = Attempt(attempt)
        if kept.number > attempt:
            return
        kept.pieces += 1
        for partition, part in zip(partitions, parts, strict=True):
            self._of(kept.records, partition).add(part)
        self._make_room()
        faults.point("mapreduce", "taken", index)

    def admit(self, index: int, attempt: int, pieces: int) -> None:
        """Admit an attempt, all `pieces` of which have been sent: from now on its records count."""
        kept = self.attempts.get(index, Attempt(attempt))
        if index in self.inputs or kept.number > attempt:
            return
        if (kept.number, kept.pieces) != (attempt, pieces):
            raise RunError(
                f"a reducer has {kept.pieces} pieces of attempt {kept.number} at input {index}, "
                f"but attempt {attempt} sent {pieces}",
                fix="map must return the same records each time",
            )
        self.inputs.add(index)
        self.attempts.pop(index, None)
        for partition, records in kept.records.items():
            self._of(self.admitted, partition).absorb(records)

    def reduce(self, partition: int) -> Any:
        result = self.job.reduce(partition, self._of(self.admitted, partition).sorted())
        del self.admitted[partition]
        faults.point("mapreduce", "reduced", partition)
        return result

    def _of(self, where: dict[int, ExternalMerge], partition: int) -> ExternalMerge:
        if partition not in where:
            # A mapper merges each piece before sending it.
            where[partition] = ExternalMerge(self.job.key, self.job.combine, self.file, unique=True)
        return where[partition]

    def _make_room(self) -> None:
        """Above `spill_bytes` in memory, merge the largest records first, and spill those that hardly shrink by it."""
        held = [*self.admitted.values(), *(r for kept in self.attempts.values() for r in kept.records.values())]
        room = self.spill_bytes - sum(records.nbytes for records in held)
        if room >= 0:
            return
        for records in sorted(held, key=lambda records: records.nbytes, reverse=True):
            before = records.nbytes
            records.merge()
            # Free half of the room, or the next piece would cause everything to be merged again.
            if room + before - records.nbytes < self.spill_bytes // 2:
                records.spill()
            room += before - records.nbytes
            if room >= self.spill_bytes // 2:
                return


class Worker(Mapper, Reducer):
    """A pool member's role as mapper, reducer or both. Its reducer calls run beside the others, in the group ASIDE."""

    def __init__(self, job: Job, partitions: int, spill_bytes: int) -> None:
        Mapper.__init__(self, job, partitions)
        Reducer.__init__(self, job, spill_bytes)


@dataclass
class Attempt:
    """A reducer's pieces of an input that is still being mapped."""

    number: int
    pieces: int = 0
    records: dict[int, ExternalMerge] = field(default_factory=dict)  # by partition
