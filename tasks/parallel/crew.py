"""A crew: workers that are sent jobs and answer, one of them now and then dead.

What decides who does what (`partition_master`, `stream`) is written against `Crew` and has its time from it, so tests
run the same code on a crew in virtual time. `RayCrew` is the real one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tasks.parallel import pool
from tasks.parallel.mapreduce_calls import LOST, outcome

__all__ = ["JOINED", "LOST", "Answer", "Crew", "RayCrew"]

TRAVELS_BYTES = 1 << 20  # of a role's arguments
JOINED = object()  # the answer of a replacement that is ready


@dataclass(frozen=True)
class Answer:
    """What `worker` returned for `job`; LOST for the worker itself, once, or JOINED where it is new (`job` is None)."""

    worker: int
    job: Any
    value: Any
    references: list[Any] = field(default_factory=list)  # to what the job left in the object store


class Crew(Protocol):
    """Workers by number; a number is never used again. A worker does its jobs in the order in which they were sent."""

    def now(self) -> float:
        """Return seconds, from any beginning."""

    def workers(self) -> list[int]:
        """Return those that are ready for jobs."""

    def send(self, worker: int, job: Any) -> None: ...

    def wait(self, until: float | None) -> list[Answer]:
        """Wait for answers, at most until this time; returns at least one, or none when the time has come."""

    def replace(self, worker: int) -> None:
        """End a worker, dead or silent, and start another, which answers JOINED when it is ready."""


class RayCrew:
    """Members of the pool. `role(*arguments)` is a class with a method `work(job)`; a job is pickled to its worker.

    references: how many values the work on a job leaves in the object store, beside its answer; `work` then returns
    them behind the answer, in one tuple. They are owned by this process, so they outlive the worker.

    Raises ValueError if the arguments, which travel to each worker, are not small.
    """

    def __init__(
        self,
        role: Callable[..., Any],
        arguments: Sequence[Any],
        workers: int,
        references: Callable[[Any], int] = lambda _: 0,
    ) -> None:
        _check_travels_light(arguments)
        self._role, self._arguments, self._references = role, arguments, references
        self._members = dict(enumerate(pool.hire(workers, role, [arguments] * workers)))
        self._started = workers
        self._epoch = time.time() - time.perf_counter()  # comparable with times of records, and never set back
        self._calls: dict[Any, tuple[int, Any, list[Any]]] = {}
        self._joining: dict[Any, tuple[int, Any]] = {}

    def now(self) -> float:
        return self._epoch + time.perf_counter()

    def workers(self) -> list[int]:
        return list(self._members)

    def send(self, worker: int, job: Any) -> None:
        count = self._references(job)
        returned = self._members[worker].call.options(num_returns=1 + count).remote("work", job)
        call, *kept = returned if count else [returned]
        self._calls[call] = worker, job, kept

    def wait(self, until: float | None) -> list[Answer]:
        import ray

        pending = [*self._calls, *self._joining]
        if not pending:
            if until is None:
                raise RuntimeError("waits for nobody, for ever")
            time.sleep(max(0.0, until - self.now()))
            return []
        timeout = None if until is None else max(0.0, until - self.now())
        if ray.wait(pending, timeout=timeout)[0]:
            ready, _ = ray.wait(pending, num_returns=len(pending), timeout=0)
            return [self._answer(call) for call in ready if call in self._calls or call in self._joining]
        return []

    def replace(self, worker: int) -> None:
        import ray

        ray.kill(self._members.pop(worker))
        self._calls = {call: sent for call, sent in self._calls.items() if sent[0] != worker}
        # It asks for no CPU: a dead node takes its CPUs along, and the others are in use.
        member, begun = pool.start(self._role, self._arguments, cpus=0)
        self._joining[begun] = self._started, member
        self._started += 1

    def close(self, *, done: bool) -> None:
        """Let the workers wait for another role if all is `done`; those that are still at work are killed."""
        busy = {worker for worker, _, _ in self._calls.values()}
        idle = [member for worker, member in self._members.items() if worker not in busy]
        pool.release(idle, done=done)
        pool.release([self._members[worker] for worker in busy if worker in self._members], done=False)
        pool.release([member for _, member in self._joining.values()], done=False)

    def _answer(self, call: Any) -> Answer:
        if call in self._joining:
            worker, member = self._joining.pop(call)
            if outcome(call) is LOST:
                self._members[worker] = member  # to be replaced in its turn
                return Answer(worker, None, LOST)
            self._members[worker] = member
            return Answer(worker, None, JOINED)
        worker, job, kept = self._calls.pop(call)
        value = outcome(call)
        if value is LOST:  # tell it once: its other calls are lost, too
            self._calls = {other: sent for other, sent in self._calls.items() if sent[0] != worker}
        return Answer(worker, job, value, kept)


def _check_travels_light(arguments: Sequence[Any]) -> None:
    from ray import cloudpickle

    size = len(cloudpickle.dumps(arguments))
    if size > TRAVELS_BYTES:
        raise ValueError(
            f"factory, arguments and sink are {size:,} bytes, which would travel to each worker: let the factory read "
            "large values from a file or the object store"
        )
