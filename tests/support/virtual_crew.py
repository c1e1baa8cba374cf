"""A crew in virtual time: what a strategy does with slow, dying and silent workers, without processes and clocks."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tasks.parallel.crew import JOINED, LOST, Answer
from tasks.parallel.partition_plan import Unit
from tasks.parallel.partition_worker import Done

JOINS_AFTER = 5.0


class VirtualCrew:
    """Worker w does a job in `cost(job) * slowness[w]` seconds; replacements have slowness 1.

    answer(worker, job) is its answer. dies(worker, job, n) says whether it dies at the end of its n-th job (from 0)
    instead; silent workers never answer.
    """

    def __init__(
        self,
        workers: int,
        cost: Callable[[Any], float],
        answer: Callable[[int, Any], Any],
        *,
        slowness: Mapping[int, float] | None = None,
        dies: Callable[[int, Any, int], bool] = lambda *_: False,
        silent: Iterable[int] = (),
    ) -> None:
        self._cost, self._answer, self._dies, self._silent = cost, answer, dies, set(silent)
        self._slowness = dict(slowness or {})
        self._time = 0.0
        self._order = itertools.count()
        self._free = dict.fromkeys(range(workers), 0.0)
        self._jobs = dict.fromkeys(range(workers), 0)
        self._numbers = itertools.count(workers)
        self._events: list[tuple[float, int, Answer]] = []

    def now(self) -> float:
        return self._time

    def workers(self) -> list[int]:
        return list(self._free)

    def send(self, worker: int, job: Any) -> None:
        number, self._jobs[worker] = self._jobs[worker], self._jobs[worker] + 1
        ends = max(self._time, self._free[worker]) + self._cost(job) * self._slowness.get(worker, 1.0)
        self._free[worker] = ends
        if worker not in self._silent:
            value = LOST if self._dies(worker, job, number) else self._answer(worker, job)
            heapq.heappush(self._events, (ends, next(self._order), Answer(worker, job, value)))

    def wait(self, until: float | None) -> list[Answer]:
        if not self._events or (until is not None and self._events[0][0] > until):
            assert until is not None, "waits for nobody, for ever"
            self._time = max(self._time, until)
            return []
        self._time = max(self._time, self._events[0][0])
        answers = []
        while self._events and self._events[0][0] <= self._time:
            answer = heapq.heappop(self._events)[2]
            if answer.value is JOINED:
                self._free[answer.worker], self._jobs[answer.worker] = self._time, 0
            if answer.value is LOST:
                self._forget(answer.worker)
            answers.append(answer)
        return answers

    def replace(self, worker: int) -> None:
        self._forget(worker)
        del self._free[worker]
        joined = Answer(next(self._numbers), None, JOINED)
        heapq.heappush(self._events, (self._time + JOINS_AFTER, next(self._order), joined))

    def _forget(self, worker: int) -> None:
        self._events = [event for event in self._events if event[2].worker != worker]
        heapq.heapify(self._events)


def scoring_crew(workers: int, *, fails: Callable[[int, int], bool] = lambda *_: False, **more: Any) -> VirtualCrew:
    """A crew for `partition`: a chunk takes a second per byte; its receipt is (chunk, rows). `fails(worker, chunk)`."""

    def answer(worker: int, unit: Unit) -> list[Done]:
        return [_done(worker, chunk, fails) for chunk in unit]

    def _done(worker: int, chunk: Any, fails: Callable[[int, int], bool]) -> Done:
        seconds = chunk.bytes * (more.get("slowness") or {}).get(worker, 1.0)
        if fails(worker, chunk.index):
            return Done(chunk.index, None, "ValueError: it is poison", seconds, seconds)
        return Done(chunk.index, (chunk.index, chunk.rows), None, seconds, seconds)

    return VirtualCrew(workers, lambda unit: float(sum(c.bytes for c in unit)), answer, **more)
