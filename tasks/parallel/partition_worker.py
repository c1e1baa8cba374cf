"""The worker of `partition`: it reads chunks, scores them and writes what comes out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from tasks.core import faults
from tasks.core.errors import RaymillError
from tasks.parallel.chunks import Chunk, read_chunk
from tasks.parallel.partition_plan import Unit

Score = Callable[[pa.Table], pa.Table]
Make = Callable[..., Score]
Sink = Callable[[Chunk, pa.Table], Any]


@dataclass(frozen=True)
class Done:
    """A chunk as its worker tells of it: the sink's receipt, or what went wrong. Seconds of wall time and of CPU."""

    chunk: int
    receipt: Any
    error: str | None
    seconds: float
    cpu_s: float


class Worker:
    """A role of the pool: makes its scorer once. An error of a chunk is told, and does not hinder the others."""

    def __init__(self, make: Make, arguments: Sequence[Any], sink: Sink | None, columns: Sequence[str] | None) -> None:
        self._score, self._sink, self._columns = make(*arguments), sink, columns

    def work(self, unit: Unit) -> Any:
        """Return what became of each chunk, and without a sink also each one's table (None for a failed one)."""
        steps = [Step(chunk).then(self._read) for chunk in unit]
        done, scored = [], []
        for i, chunk in enumerate(unit):
            outcome, out = self._one(chunk, steps[i])
            steps[i] = Step()  # a scored chunk's rows are not held any longer
            done.append(outcome)
            scored.append(out)
        return done if self._sink else (done, *scored)

    def _read(self, chunk: Chunk) -> pa.Table:
        return read_chunk(chunk, self._columns)

    def _one(self, chunk: Chunk, read: Step) -> tuple[Done, pa.Table | None]:
        faults.point("partition", "read", chunk.index)
        last = read.then(self._score)
        if self._sink:
            last = last.then(partial(self._sink, chunk))
        faults.point("partition", "written", chunk.index)
        receipt, scored = (last.value, None) if self._sink else (None, last.value)
        return Done(chunk.index, receipt, last.error, last.seconds, last.cpu_s), scored


@dataclass(frozen=True)
class Step:
    """What came out of the last step, or the error of the first that failed, and the seconds of all so far."""

    value: Any = None
    error: str | None = None
    seconds: float = 0.0
    cpu_s: float = 0.0

    def then(self, call: Callable[[Any], Any]) -> Step:
        if self.error is not None:
            return self
        began, cpu = time.perf_counter(), time.process_time()
        value, error = None, None
        try:
            value = call(self.value)
        except Exception as raised:  # of any kind: it is the chunk's, and told
            error = str(raised) if isinstance(raised, RaymillError) else f"{type(raised).__name__}: {raised}"
        now, cpu_now = time.perf_counter(), time.process_time()
        return Step(value, error, self.seconds + now - began, self.cpu_s + cpu_now - cpu)
