"""Point-to-point messages between the ranks of a group: the `Comm` that every algorithm here is written against.

An algorithm takes a `Comm` and is the same code in every group: threads of one process (`run_threads` below, the tests'
oracle), or Ray actors (`comm_actors.run_actors`) whose arrays travel through the object store, over gloo's sockets or
through shared memory. Point to point, a message of n bytes costs about alpha + n beta seconds.

A message says what it is: the phase that its sender is in, its dtype and its shape. A receiver that is in another phase
or wants another array raises RanksDisagree; one that waits too long, or whose peer is gone, raises RankLost. Both name
the rank and the phase. So no rank sums what does not belong together, and none hangs.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.core.errors import RankLost, RanksDisagree, UserError

Array = npt.NDArray[Any]
TIMEOUT_S = 300.0
WINDOW_BYTES = 4 << 20  # of each rank's window: two blocks of input, two of results
NOTHING: Array = np.empty(0, np.uint8)


class Comm(ABC):
    """One rank's view of its group. Messages from one rank to another arrive in the order in which they were sent.

    `phase` names what the rank is doing; an algorithm sets it. `windows`, where the ranks share memory, holds a buffer
    of each rank that all of them read; only its owner writes, and barriers keep writing and reading apart.
    """

    kind: str

    def __init__(self, rank: int, world_size: int, timeout_s: float = TIMEOUT_S) -> None:
        self.rank, self.world_size, self.timeout_s = rank, world_size, timeout_s
        self.phase = "no collective"
        self.windows: Sequence[Array] = ()

    @abstractmethod
    def send(self, to: int, array: Array) -> None:
        """Send a copy. May block until `to` receives: ranks that send to each other at a time use `send_recv`."""

    @abstractmethod
    def recv(self, source: int, out: Array | None = None) -> Array:
        """Return the next array from `source`, in `out` if given: contiguous, of the message's dtype and shape."""

    @abstractmethod
    def send_recv(self, to: int, array: Array, source: int, out: Array | None = None) -> Array:
        """Send and receive at the same time. `array` and `out` do not overlap."""

    def barrier(self) -> None:
        """Return when all ranks have called it: ceil(log2 W) alpha (dissemination; Hensgen, Finkel, Manber, 1988)."""
        step = 1
        while step < self.world_size:
            self.send_recv((self.rank + step) % self.world_size, NOTHING, (self.rank - step) % self.world_size, NOTHING)
            step *= 2

    def lost(self, other: int, why: str) -> RankLost:
        return RankLost(
            f"rank {other} {why}",
            where=f"rank {self.rank} of {self.world_size} in {self.phase}",
            fix=f"rank {other}'s own error says why; the work can be tried again",
        )

    def disagree(self, source: int, theirs: str, ours: str) -> RanksDisagree:
        return RanksDisagree(
            f"rank {source} sent {theirs}; expected {ours}",
            where=f"rank {self.rank} of {self.world_size}",
            fix="call collectives in the same order, with the same operation, dtype and shape on every rank",
        )


def described(phase: str, array: Array) -> str:
    """Describe a message, as it travels and as errors show it."""
    return f"{phase}: {array.dtype.str} {array.shape}"


def matching(comm: Comm, source: int, theirs: str, out: Array | None, at_most: int | None = None) -> Array:
    """Return `out`, or a new array, for a message that is described as `theirs`. Raises RanksDisagree for another.

    at_most: characters that a description is cut to.
    """
    if out is None:
        phase, _, kind = theirs.rpartition(": ")
        dtype, _, shape = kind.partition(" ")
        if phase != comm.phase:
            raise comm.disagree(source, theirs, comm.phase)
        return np.empty([int(n) for n in shape.strip("()").split(",") if n.strip()], np.dtype(dtype))
    if theirs != (ours := described(comm.phase, out)[:at_most]):
        raise comm.disagree(source, theirs, ours)
    return out


def late(timeout_s: float) -> str:
    return f"did not answer within {timeout_s:g} s"


class Mailbox:
    """A queue of messages per source rank; a message of None is the last one."""

    def __init__(self, world_size: int) -> None:
        # All at once: if sender and receiver both found none and made one, the message was lost in one of them.
        self._queues: list[SimpleQueue[tuple[str, Array] | None]] = [SimpleQueue() for _ in range(world_size)]

    def put(self, source: int, message: tuple[str, Array] | None) -> None:
        self._queues[source].put(message)

    def take(self, comm: Comm, source: int, out: Array | None) -> Array:
        """Return the next array for `comm`. Raises RankLost, and RanksDisagree if it is not what `comm` expects."""
        try:
            message = self._queues[source].get(timeout=comm.timeout_s)
        except Empty:
            raise comm.lost(source, late(comm.timeout_s)) from None
        if message is None:
            raise comm.lost(source, "has ended")
        phase, array = message
        theirs, ours = described(phase, array), described(comm.phase, array if out is None else out)
        if theirs != ours:
            raise comm.disagree(source, theirs, ours)
        if out is None:
            return array
        out[...] = array
        return out


class ThreadComm(Comm):
    """The `Comm` of one thread in a group of threads of one process."""

    kind = "threads"

    def __init__(
        self, rank: int, mailboxes: Sequence[Mailbox], windows: Sequence[Array], timeout_s: float = TIMEOUT_S
    ) -> None:
        super().__init__(rank, len(mailboxes), timeout_s)
        self._mailboxes, self.windows = mailboxes, windows

    def send(self, to: int, array: Array) -> None:
        self._mailboxes[to].put(self.rank, (self.phase, array.copy()))

    def recv(self, source: int, out: Array | None = None) -> Array:
        return self._mailboxes[self.rank].take(self, source, out)

    def send_recv(self, to: int, array: Array, source: int, out: Array | None = None) -> Array:
        self.send(to, array)
        return self.recv(source, out)


def run_threads(
    work: Callable[..., Any],
    arguments: Sequence[Sequence[Any]],
    *,
    timeout_s: float = TIMEOUT_S,
    window_bytes: int = WINDOW_BYTES,
) -> list[Any]:
    """Run `work(comm, *arguments[rank])` on one thread per rank; return the ranks' results.

    Raises UserError for no ranks, and the first error of a rank that is not the echo of another rank's.
    """
    require_ranks(arguments)
    mailboxes = [Mailbox(len(arguments)) for _ in arguments]
    windows = [np.empty(window_bytes, np.uint8) for _ in arguments]
    results: list[Any] = [None] * len(arguments)
    errors: list[BaseException] = []

    def body(rank: int) -> None:
        try:
            results[rank] = work(ThreadComm(rank, mailboxes, windows, timeout_s), *arguments[rank])
        except BaseException as error:
            errors.append(error)
        finally:
            for mailbox in mailboxes:
                mailbox.put(rank, None)

    threads = [threading.Thread(target=body, args=(rank,), daemon=True) for rank in range(len(arguments))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise first_cause(errors)
    return results


def require_ranks(arguments: Sequence[Any]) -> None:
    if not arguments:
        raise UserError("a group of world size 0 has no rank to run", fix="give the arguments of at least one rank")


def first_cause(errors: Sequence[BaseException]) -> BaseException:
    """Return the first error that is not RankLost, which the others may be echoes of; else the first."""
    return next((error for error in errors if not isinstance(error, RankLost)), errors[0])
