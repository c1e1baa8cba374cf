"""The actors of MapReduce: mappers push pieces, reducers take, merge and reduce them. See tasks/parallel/mapreduce.py
for what they are to each other, and for what holds when one of them dies.

One process can be both, each in a thread of its own: a process costs a second of a core to start, and a reducer mostly
waits.
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

PIECE_BYTES = 16 << 20  # a mapper merges its records when they are more, and pushes them if half of that stays
LOST = object()  # the outcome of a call whose actor died


@dataclass(frozen=True)
class Owner:
    """A reducer, as the mappers know it. A replacement has an id of its own."""

    id: int
    actor: Any
    partitions: tuple[int, ...]


@dataclass(frozen=True)
class Mapped:
    """What became of an input: ids of the reducers that have all of it, and of those that died."""

    taken: set[int]
    lost: set[int]


def outcome(call: Any) -> Any:
    """What a call to an actor gave, or LOST. What it raised is raised."""
    try:
        return gather([call])[0]
    except TransientError as error:
        cause = error.__cause__
        if cause is None or not is_lost(cause):
            raise  # the function's own
        return LOST


class Mapper:
    """Maps inputs and pushes their pieces to the reducers."""

    def __init__(self, job: Job, partitions: int) -> None:
        self.job, self.partitions = job, partitions

    def map(self, index: int, attempt: int, given: Any, owners: Sequence[Owner]) -> Mapped:
        """Map one input; returns which of these reducers have it, and which have died."""
        lost: set[int] = set()
        waiting: dict[int, Any] = {}
        number = 0

        def answered(calls: dict[int, Any]) -> None:
            lost.update(owner for owner, call in calls.items() if outcome(call) is LOST)

        for number, piece in enumerate(pieces(self.job, given), start=1):
            parts = split(self.job, piece, self.partitions)
            sent = {
                # One argument a partition, so that each can leave Ray's shared memory apart from the others.
                o.id: o.actor.call.options(concurrency_group=ASIDE).remote(
                    "take", index, attempt, o.partitions, *(parts[p] for p in o.partitions)
                )
                for o in owners
                if o.id not in lost
            }
            # The back-pressure: a mapper makes one more piece while the last is being taken.
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
    """The records of one input, merged as they come, in pieces of up to about PIECE_BYTES."""
    held = Merging(job.combine, unique=job.unique)
    for table in job.map(given):
        held.add(table.replace_schema_metadata(None))
        if held.nbytes > PIECE_BYTES:
            held.merge()
            if held.nbytes > PIECE_BYTES // 2:
                yield from held.drain()
    yield from held.drain()


def split(job: Job, records: pa.Table, partitions: int) -> list[pa.Table]:
    """The records of each partition. RunError for null keys and other such surprises."""
    for name in job.key:
        if name not in records.column_names:
            raise RunError(f"no key column {name} among {', '.join(records.column_names)}", fix="map must make it")
        if nulls := records[name].null_count:
            raise RunError(f"the key column {name} has {nulls:,} nulls", fix="map must leave out or name such records")
    parts = (job.partition or (lambda r, p: partition_by_hash(r, job.key, p)))(records, partitions)
    if len(parts) != partitions or sum(part.num_rows for part in parts) != records.num_rows:
        raise RunError(
            f"partition made {len(parts)} tables with {sum(part.num_rows for part in parts):,} rows "
            f"of {records.num_rows:,} rows for {partitions} partitions"
        )
    return parts


class Reducer:
    """Owns some partitions: takes pieces, merges them, reduces."""

    def __init__(self, job: Job, spill_bytes: int) -> None:
        # Arrow's strings have 32-bit offsets: a column of more than 2 GiB cannot be sorted in one piece.
        self.job, self.spill_bytes = job, min(spill_bytes, 1 << 30)
        self.file = SpillFile()
        self.admitted: dict[int, ExternalMerge] = {}
        self.inputs: set[int] = set()  # those admitted
        self.attempts: dict[int, Attempt] = {}  # at the others, the latest of each

    def take(self, index: int, attempt: int, partitions: Sequence[int], *parts: pa.Table) -> None:
        """Take the next piece of an attempt at input `index`: a table for each of these partitions."""
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
        """All pieces of the attempt have been sent: from now on they count."""
        kept = self.attempts.get(index, Attempt(attempt))
        if index in self.inputs or kept.number > attempt:
            return
        if (kept.number, kept.pieces) != (attempt, pieces):
            raise RunError(
                f"a reducer has {kept.pieces} pieces of attempt {kept.number} at input {index} "
                f"where attempt {attempt} has {pieces}",
                fix="map must give the same records each time",
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
            # What mappers send is merged.
            where[partition] = ExternalMerge(self.job.key, self.job.combine, self.file, unique=True)
        return where[partition]

    def _make_room(self) -> None:
        """Where too much is in memory, merge the largest first, and put on disk what does not go away by that."""
        held = [*self.admitted.values(), *(r for kept in self.attempts.values() for r in kept.records.values())]
        room = self.spill_bytes - sum(records.nbytes for records in held)
        if room >= 0:
            return
        for records in sorted(held, key=lambda records: records.nbytes, reverse=True):
            before = records.nbytes
            records.merge()
            # Not before it is half empty: or the next piece would have all merged again.
            if room + before - records.nbytes < self.spill_bytes // 2:
                records.spill()
            room += before - records.nbytes
            if room >= self.spill_bytes // 2:
                return


class Worker(Mapper, Reducer):
    """The role of a pool's member that maps, reduces, or does both. Calls as a reducer go beside the others, ASIDE."""

    def __init__(self, job: Job, partitions: int, spill_bytes: int) -> None:
        Mapper.__init__(self, job, partitions)
        Reducer.__init__(self, job, spill_bytes)


@dataclass
class Attempt:
    """What a reducer has of an input that is still being mapped."""

    number: int
    pieces: int = 0
    records: dict[int, ExternalMerge] = field(default_factory=dict)  # by partition
