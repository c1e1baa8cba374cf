"""The master of `partition`: sends units to a crew, and accounts for every chunk exactly once.

A chunk is *settled* by its first result, whatever was repeated; later ones are counted and forgotten. A failed chunk is
done again elsewhere, on a worker that has not failed it where there is one. The death of a worker is not the fault of
the chunk that it was at, so it is counted apart; but a chunk at which `tries` workers died in turn is as little done
again as one that failed `tries` times. What a dead worker had not begun is done again without being counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tasks.core.errors import ChunkFailed, TransientError
from tasks.parallel.chunks import Chunk
from tasks.parallel.crew import JOINED, LOST, Answer, Crew
from tasks.parallel.partition_plan import Plan, Speeds, Unit
from tasks.parallel.partition_worker import Done

# At different chunks. Workers that die at the same chunk are counted as that chunk's.
MAX_DEATHS = 3
# A repetition must gain so many seconds: the worker that loses is killed with its work, and starting one costs more.
WORTH_S = 0.5
Poison = Literal["raise", "set-aside"]


@dataclass
class Trouble:
    """What happened to a chunk that was not done at once. `failed_on`: workers, once per failure."""

    chunk: Chunk
    failed_on: list[int] = field(default_factory=list)
    died_on: list[int] = field(default_factory=list)
    error: str = ""

    def __str__(self) -> str:
        told = [f"failed {len(self.failed_on)} times on {len(set(self.failed_on))} workers"] if self.failed_on else []
        told += [f"{len(self.died_on)} workers died at it"] if self.died_on else []
        return f"{' and '.join(told)}{': ' if self.error else ''}{self.error}"


@dataclass
class Counts:
    """sent: chunks given to workers; failures and deaths: of chunks and of workers; steals: chunks taken from another's
    run; speculated: chunks begun a second time while the first was under way; repeated: results that came too late."""

    sent: int = 0
    failures: int = 0
    deaths: int = 0
    steals: int = 0
    speculated: int = 0
    repeated: int = 0


@dataclass(frozen=True)
class Span:
    """Who settled a chunk, when (seconds after the beginning), in how many seconds of wall time and of CPU."""

    chunk: int
    worker: int
    at_s: float
    seconds: float
    cpu_s: float


@dataclass
class Flight:
    """A unit at a worker. `since`: when the worker came to it; None while it waits behind another."""

    unit: Unit
    since: float | None


class Master:
    def __init__(
        self,
        chunks: Sequence[Chunk],
        plan: Plan,
        crew: Crew,
        *,
        tries: int = 3,
        poison: Poison = "raise",
        patience_s: float = 600.0,
        on_settled: Callable[[Chunk], None] | None = None,
    ) -> None:
        self.chunks, self.plan, self.crew = chunks, plan, crew
        self.tries, self.poison, self.patience_s, self.on_settled = tries, poison, patience_s, on_settled
        self.by_index = {chunk.index: chunk for chunk in chunks}
        self.receipts: dict[int, Any] = {}  # of settled chunks
        self.set_aside: dict[int, Trouble] = {}
        self.troubles: dict[int, Trouble] = {}
        self.spans: list[Span] = []
        self.counts = Counts()
        self.speeds = Speeds()
        self.flights: dict[int, deque[Flight]] = {worker: deque() for worker in crew.workers()}
        self.again: list[Chunk] = []  # to be done again
        self.loose_deaths = 0  # not while one chunk was under way
        self.heirless: deque[int] = deque()  # dead workers whose replacement is on its way
        self.began = crew.now()

    def run(self) -> None:
        while len(self.receipts) + len(self.set_aside) < len(self.chunks):
            wake = self._feed()
            patience = [f[0].since + self.patience_s for f in self.flights.values() if f and f[0].since is not None]
            for answer in self.crew.wait(min([*wake, *patience], default=None)):
                self._take(answer)
            self._end_silent()
        self.counts.steals = self.plan.steals

    def _feed(self) -> list[float]:
        """Give work to all that have room for it; returns times at which there may be more to give."""
        wake: list[float] = []
        given = True
        while given:  # one unit each in turn
            given = False
            for worker in self.crew.workers():
                if len(self.flights.setdefault(worker, deque())) < self.plan.ahead(len(self.flights)):
                    unit = self._next(worker)
                    given = given or unit is not None
                    self._send(worker, unit)
        if self.plan.speculates and self.speeds.known():
            for worker in self.crew.workers():
                if not self.flights[worker]:
                    chunk, at = self._worth_repeating(worker)
                    self.counts.speculated += chunk is not None
                    self._send(worker, (chunk,) if chunk else None)
                    wake += at
        return wake

    def _next(self, worker: int) -> Unit | None:
        for i, chunk in enumerate(self.again):
            others = set(self.flights) - set(
                self.troubles[chunk.index].failed_on if chunk.index in self.troubles else ()
            )
            if worker in others or not others:
                return (self.again.pop(i),)
        return self.plan.take(worker, self.speeds)

    def _send(self, worker: int, unit: Unit | None) -> None:
        if unit is None:
            return
        flights = self.flights[worker]
        flights.append(Flight(unit, None if flights else self.crew.now()))
        self.counts.sent += len(unit)
        self.crew.send(worker, unit)

    def _worth_repeating(self, idle: int) -> tuple[Chunk | None, list[float]]:
        """Return the chunk that an idle worker should repeat, the one missed longest, or times to ask again.

        A chunk that has taken t seconds longer than expected is expected to take t more. It is worth repeating if the
        idle worker needs WORTH_S less.
        """
        under_way = [f.unit for flights in self.flights.values() for f in flights]
        best: tuple[float, Chunk | None] = (0.0, None)
        wake = []
        for worker, flights in self.flights.items():
            end = 0.0
            for flight in flights:
                size = sum(chunk.bytes for chunk in flight.unit)
                end += self.speeds.seconds(worker, size)
                if flight.since is not None:
                    began = flight.since
                chunk, *more = flight.unit
                if more or idle in self._failed_on(chunk) or not self._open(chunk) or under_way.count(flight.unit) > 1:
                    continue
                mine = self.speeds.seconds(idle, size) + WORTH_S
                left = abs(began + end - self.crew.now())
                if left > mine:
                    best = max(best, (left, chunk), key=lambda pair: pair[0])
                else:
                    wake.append(began + end + mine * 1.001)
        return best[1], wake

    def _take(self, answer: Answer) -> None:
        if answer.value is JOINED:
            self.flights[answer.worker] = deque()
            if self.heirless:
                self.plan.replace(self.heirless.popleft(), answer.worker)
        elif answer.value is LOST:
            self._bury(answer.worker)
        else:
            flights = self.flights[answer.worker]
            flights.popleft()
            if flights:
                flights[0].since = self.crew.now()
            outputs = answer.references or [None] * len(answer.value)
            for done, output in zip(answer.value, outputs, strict=True):
                self._settle(answer.worker, done, output)

    def _settle(self, worker: int, done: Done, output: Any) -> None:
        chunk = self.by_index[done.chunk]
        self.speeds.note(worker, chunk.bytes, done.seconds)
        if not self._open(chunk):
            self.counts.repeated += 1
        elif done.error is not None:
            self.counts.failures += 1
            trouble = self._trouble(chunk)
            trouble.failed_on.append(worker)
            trouble.error = done.error
            self._again(chunk)
        else:
            self.receipts[chunk.index] = done.receipt if output is None else output
            self.spans.append(Span(chunk.index, worker, self.crew.now() - self.began, done.seconds, done.cpu_s))
            if self.on_settled:
                self.on_settled(chunk)

    def _bury(self, worker: int) -> None:
        """Count a death, and do again what the worker had; a unit of several chunks in parts, to find the one."""
        self.counts.deaths += 1
        if worker in self.flights:  # not a replacement that died before it was ready: that of its turn is to come
            self.heirless.append(worker)
        flights = self.flights.pop(worker, deque())
        self.loose_deaths += not (flights and len(flights[0].unit) == 1)
        for place, flight in enumerate(flights):
            for chunk in flight.unit:
                if place == 0 and len(flight.unit) == 1 and self._open(chunk):
                    self._trouble(chunk).died_on.append(worker)
                self._again(chunk)
        places = sum(bool(t.died_on) and i not in self.set_aside for i, t in self.troubles.items())
        if self.loose_deaths + places > MAX_DEATHS:
            raise TransientError(
                f"{self.counts.deaths} workers died",
                where="partition",
                fix="it is tried again; if that fails too, see Ray's logs for the cause. It is most often memory: "
                "use smaller chunks or fewer workers",
            )
        self.crew.replace(worker)

    def _again(self, chunk: Chunk) -> None:
        """Do a chunk again, unless it is settled, another has it, or it had its tries."""
        if not self._open(chunk):
            return
        trouble = self.troubles.get(chunk.index)
        if trouble and max(len(trouble.failed_on), len(trouble.died_on)) >= self.tries:
            if self.poison == "raise":
                raise ChunkFailed(
                    str(trouble), where=str(chunk), fix="look at these rows, or let such chunks be set aside"
                )
            self.set_aside[chunk.index] = trouble
        elif not any(chunk in flight.unit for flights in self.flights.values() for flight in flights):
            self.again.append(chunk)

    def _end_silent(self) -> None:
        now = self.crew.now()
        for worker, flights in list(self.flights.items()):
            if flights and flights[0].since is not None and now - flights[0].since >= self.patience_s:
                self._bury(worker)

    def _open(self, chunk: Chunk) -> bool:
        return chunk.index not in self.receipts and chunk.index not in self.set_aside

    def _failed_on(self, chunk: Chunk) -> set[int]:
        return set(self.troubles[chunk.index].failed_on) if chunk.index in self.troubles else set()

    def _trouble(self, chunk: Chunk) -> Trouble:
        return self.troubles.setdefault(chunk.index, Trouble(chunk))
