"""Point-to-point messages between the ranks of a group, and two kinds of group: threads and Ray actors.

An algorithm takes a `Comm` and is the same code in both groups: `run_threads` runs it on threads of one process (the
tests' oracle), `run_actors` on Ray actors, whose arrays travel from rank to rank through the object store.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Protocol

import numpy.typing as npt

from tasks.engines.cluster import gather
from tasks.parallel import pool

Array = npt.NDArray[Any]
RECV_TIMEOUT_S = 300.0


class Comm(Protocol):
    """One rank's view of its group. Messages from one rank to another arrive in the order they were sent."""

    rank: int
    world_size: int

    def send(self, to: int, array: Array) -> None: ...

    def recv(self, source: int) -> Array: ...


class Mailbox:
    """A queue of received arrays per source rank."""

    def __init__(self) -> None:
        self._queues: defaultdict[int, SimpleQueue[Array]] = defaultdict(SimpleQueue)

    def put(self, source: int, array: Array) -> None:
        self._queues[source].put(array)

    def get(self, source: int) -> Array:
        # The timeout turns a dead peer into an error instead of a hang.
        return self._queues[source].get(timeout=RECV_TIMEOUT_S)


class ThreadComm:
    """The `Comm` of one thread in a group of threads of one process."""

    def __init__(self, rank: int, mailboxes: Sequence[Mailbox]) -> None:
        self.rank, self.world_size, self._mailboxes = rank, len(mailboxes), mailboxes

    def send(self, to: int, array: Array) -> None:
        self._mailboxes[to].put(self.rank, array.copy())

    def recv(self, source: int) -> Array:
        return self._mailboxes[self.rank].get(source)


def run_threads(work: Callable[..., Any], arguments: Sequence[Sequence[Any]]) -> list[Any]:
    """Run `work(comm, *arguments[rank])` on one thread per rank; return the ranks' results."""
    mailboxes = [Mailbox() for _ in arguments]
    results: list[Any] = [None] * len(arguments)
    errors: list[BaseException] = []

    def body(rank: int) -> None:
        try:
            results[rank] = work(ThreadComm(rank, mailboxes), *arguments[rank])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(rank,), daemon=True) for rank in range(len(arguments))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


class Rank:
    """A pool member's role as one rank. `deliver` runs in a thread beside `work`, so ranks can wait for each other."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self._mailbox = Mailbox()
        self._peers: list[Any] = []
        self._pending: dict[int, Any] = {}

    def meet(self, peers: Sequence[Any]) -> None:
        self._peers = list(peers)

    def deliver(self, source: int, array: Array) -> None:
        self._mailbox.put(source, array)

    def work(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return work(self, *arguments)

    def send(self, to: int, array: Array) -> None:
        import ray

        if to in self._pending:
            ray.get(self._pending[to])  # one message in flight per peer: keeps the order, raises errors at the sender
        call = self._peers[to].call.options(concurrency_group=pool.ASIDE)
        self._pending[to] = call.remote("deliver", self.rank, array)

    def recv(self, source: int) -> Array:
        return self._mailbox.get(source)


def run_actors(
    work: Callable[..., Any],
    arguments: Sequence[Sequence[Any]],
    *,
    returns: Sequence[int] | None = None,
) -> list[Any]:
    """Run `work(comm, *arguments[rank])` on one Ray actor per rank; return the ranks' results.

    returns: the number of values that each rank's `work` returns. The values then stay in Ray's object store, and a
    rank's result is a list of references to them: no value passes through this process.
    """
    size = len(arguments)
    ranks = pool.hire(size, Rank, [(rank, size) for rank in range(size)])
    done = False
    try:
        gather(r.call.remote("meet", ranks) for r in ranks)
        calls = [r.call.options(num_returns=n) for r, n in zip(ranks, returns or [1] * size, strict=True)]
        results = [call.remote("work", work, *given) for call, given in zip(calls, arguments, strict=True)]
        kept = [result if isinstance(result, list) else [result] for result in results]
        values = gather(one for result in kept for one in result[:1])  # a call's values all become available at once
        done = True
        return values if returns is None else kept
    finally:
        pool.release(ranks, done=done)
