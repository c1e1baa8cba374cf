"""The reducers of MapReduce: they take pieces, merge them, spill them to disk, and reduce them.

tasks/parallel/mapreduce.py describes how they work together and what holds when one of them dies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tasks.core import faults
from tasks.core.errors import RunError
from tasks.parallel.external_merge import ExternalMerge, SpillFile

if TYPE_CHECKING:
    from tasks.parallel.mapreduce_job import Job


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


@dataclass
class Attempt:
    """A reducer's pieces of an input that is still being mapped."""

    number: int
    pieces: int = 0
    records: dict[int, ExternalMerge] = field(default_factory=dict)  # by partition
