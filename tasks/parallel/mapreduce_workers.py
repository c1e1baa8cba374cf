"""The actors of MapReduce: mappers and reducers at once.

One process can be both, each in its own thread: a process costs a second of a core to start, and a reducer mostly
waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.parallel.mapreduce_mapper import Mapper
from tasks.parallel.mapreduce_reducer import Reducer

if TYPE_CHECKING:
    from tasks.parallel.mapreduce_job import Job


class Worker(Mapper, Reducer):
    """A pool member's role as mapper, reducer or both. Its reducer calls run beside the others, in the group ASIDE."""

    def __init__(self, job: Job, partitions: int, spill_bytes: int) -> None:
        Mapper.__init__(self, job, partitions)
        Reducer.__init__(self, job, spill_bytes)
