"""Score records as they arrive: a bounded queue between a source that does not wait and workers that do.

    crew = stream.crew(load_scorer, (model_path,), workers=2)
    source = Replay(rows, rate=5_000, seconds=60, start=crew.now() + 1)
    report = stream.run(source, crew, Limits(capacity=50_000, batch=4_096, on_full="drop", deadline_s=1.0))

A worker that is free gets what waits, at most `batch` records: batches are small while there is little to do, and
large under load, when they cost least. When the queue is full, further records are dropped and counted, or they wait
outside of it (back-pressure), where their latency grows all the same, since it counts from the arrival.

The loop is one thread: it takes notice of arrivals, sends, hears answers, and never waits for a worker alone. Its time
is the crew's, so that tests run it in virtual time. A batch whose scoring fails is counted and told, and the stream
goes on; that of a worker that died is scored again. Delivery is at least once: `Source.done` is told when all records
up to a number are done with, and a source that was killed before it noted that gives some of them again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from tasks.core import faults
from tasks.core.errors import RaymillError, TransientError
from tasks.parallel.crew import JOINED, LOST, Answer, Crew, RayCrew
from tasks.parallel.partition_worker import Make
from tasks.parallel.stream_arrivals import Source
from tasks.parallel.stream_report import Meter, Report

AHEAD = 2  # batches at a worker, if there are whole ones: the second one travels while it scores the first
TICK_S = 0.002  # arrivals are noticed at most this much later
MAX_DEATHS = 3
Take = Callable[[int, pa.Table], Any]  # first record's number, predictions -> a small receipt


@dataclass(frozen=True)
class Limits:
    """capacity: records that may wait in the queue. batch: the most sent at once. on_full: what happens to records that
    arrive at a full queue. deadline_s: what counts as good. give_up_s: end the stream when a record waits this long."""

    capacity: int
    batch: int
    on_full: Literal["wait", "drop"]
    deadline_s: float
    give_up_s: float | None = None


@dataclass(frozen=True)
class Batch:
    """Records `first` to `end` (not included); `rows` is an Arrow IPC stream, since a pickled slice may be whole."""

    first: int
    end: int
    rows: Any


@dataclass(frozen=True)
class Scored:
    """The sink's receipt, or the error of a batch."""

    receipt: Any = None
    error: str | None = None


class Worker:
    """A role of the pool: makes its scorer once, then scores batch after batch."""

    def __init__(self, make: Make, arguments: Sequence[Any], sink: Take | None) -> None:
        self._score, self._sink = make(*arguments), sink

    def work(self, batch: Batch) -> Scored:
        faults.point("stream", "read", batch.first)
        try:
            scored = self._score(pa.ipc.open_stream(batch.rows).read_all())
            return Scored(self._sink(batch.first, scored) if self._sink else None)
        except Exception as error:  # of any kind: it is the batch's
            return Scored(error=str(error) if isinstance(error, RaymillError) else f"{type(error).__name__}: {error}")


def crew(make: Make, arguments: Sequence[Any], workers: int, sink: Take | None = None) -> RayCrew:
    """Hire workers; `close` the crew after the stream. What is passed travels to each, as in `partition.run`."""
    return RayCrew(Worker, (make, arguments, sink), workers)


def run(source: Source, crew: Crew, limits: Limits, on_scored: Callable[[int, int, Any], None] | None = None) -> Report:
    """Score until the source ends and the queue is empty. `on_scored(first, end, receipt)` is called per batch.

    Raises TransientError if workers keep dying.
    """
    return _Loop(source, crew, limits, on_scored).run()


@dataclass
class _Sent:
    first: int
    end: int
    at: float


class _Loop:
    def __init__(
        self, source: Source, crew: Crew, limits: Limits, on_scored: Callable[[int, int, Any], None] | None
    ) -> None:
        self.source, self.crew, self.limits, self.on_scored = source, crew, limits, on_scored
        self.queue: deque[tuple[int, int]] = deque()  # ranges of records
        self.waiting = 0
        self.sent: dict[int, deque[_Sent]] = {}
        self.noticed = 0  # records that the source has given or that were dropped
        self.told = 0
        self.meter = Meter(limits.deadline_s, crew.now())

    def run(self) -> Report:
        gave_up = False
        while not gave_up:
            now = self.crew.now()
            self._notice(now)
            self._send(now)
            due = self.source.next_arrival(now)
            if due is None and not self.waiting and not self._under_way() and self.noticed == self.source.arrived(now):
                break
            for answer in self.crew.wait(None if due is None else max(due, now + TICK_S)):
                self._take(answer)
            self._tell_done()
            limit = self.limits.give_up_s
            gave_up = limit is not None and self._oldest(self.crew.now()) > limit
        return self.meter.report(self.crew.now(), gave_up=gave_up)

    def _notice(self, now: float) -> None:
        """Queue what has arrived, as far as there is room."""
        came = self.source.arrived(now)
        room = max(0, self.limits.capacity - self.waiting)  # batches of a worker that died may overfill the queue
        end = min(came, self.noticed + room)
        if end > self.noticed:
            self.meter.arrive(now, self.source.times(self.noticed, end))
            self.queue.append((self.noticed, end))
            self.waiting += end - self.noticed
            self.noticed = end
        if came > end and self.limits.on_full == "drop":
            self.meter.arrive(now, self.source.drop(end, came))
            self.meter.dropped += came - end
            self.noticed = came
        self.meter.most_waiting = max(self.meter.most_waiting, self.waiting)

    def _send(self, now: float) -> None:
        for depth in range(AHEAD):
            for worker in self.crew.workers():
                sent = self.sent.setdefault(worker, deque())
                if len(sent) == depth and self.waiting >= (1 if depth == 0 else self.limits.batch):
                    first, end = self._cut()
                    rows = _serialized(self.source.take(first, end))
                    sent.append(_Sent(first, end, now))
                    self.crew.send(worker, Batch(first, end, rows))

    def _cut(self) -> tuple[int, int]:
        """Take the next records in one piece, at most a batch."""
        first, end = self.queue.popleft()
        while self.queue and self.queue[0][0] == end and end - first < self.limits.batch:
            end = self.queue.popleft()[1]
        cut = min(end, first + self.limits.batch)
        if cut < end:
            self.queue.appendleft((cut, end))
        self.waiting -= cut - first
        return first, cut

    def _take(self, answer: Answer) -> None:
        if answer.value is JOINED:
            return
        if answer.value is LOST:
            self._bury(answer.worker)
            return
        sent = self.sent[answer.worker].popleft()
        scored: Scored = answer.value
        if scored.error is not None:
            self.meter.failed += sent.end - sent.first
            self.meter.errors.append(f"records {sent.first} to {sent.end - 1}: {scored.error}")
        else:
            self.meter.score(self.crew.now(), self.source.times(sent.first, sent.end), sent.at)
            if self.on_scored:
                self.on_scored(sent.first, sent.end, scored.receipt)

    def _bury(self, worker: int) -> None:
        self.meter.deaths += 1
        if self.meter.deaths > MAX_DEATHS:
            raise TransientError(
                f"{self.meter.deaths} workers died", where="stream", fix="see Ray's logs; it is most often memory"
            )
        for sent in reversed(self.sent.pop(worker, deque())):
            self.queue.appendleft((sent.first, sent.end))
            self.waiting += sent.end - sent.first
        self.crew.replace(worker)

    def _under_way(self) -> bool:
        return any(self.sent.values())

    def _first_open(self) -> int:
        open_now = [sent.first for of in self.sent.values() for sent in of] + [first for first, _ in self.queue]
        return min(open_now, default=self.noticed)

    def _tell_done(self) -> None:
        done = self._first_open()
        if done > self.told:
            self.told = done
            self.source.done(done)

    def _oldest(self, now: float) -> float:
        """Return for how long the oldest open record has been due."""
        first = self._first_open()
        return now - float(self.source.times(first, first + 1)[0]) if first < self.source.arrived(now) else 0.0


def _serialized(rows: pa.Table) -> pa.Buffer:
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, rows.schema) as writer:
        writer.write_table(rows)
    return out.getvalue()
