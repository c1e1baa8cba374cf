"""Groups of ranks on Ray actors, and the `Comm` whose arrays travel through Ray's object store.

`run_actors` runs one piece of work on a new group; `ActorGroup` keeps the ranks for several. Members come from the pool
(`tasks/parallel/pool.py`): after an error all of them are killed, so that neither a process nor a half-done message
stays behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tasks.core.errors import RankLost, TransientError
from tasks.engines.cluster import gather, is_lost
from tasks.parallel import pool
from tasks.parallel.comm import TIMEOUT_S, Array, Comm, Mailbox, late, require_ranks

GRACE_S = 5.0  # for the other ranks' errors to arrive, one of which may be the cause of the first


class ActorComm(Comm):
    """A `Comm` of one actor. The group tells every rank all ranks' addresses, then they meet."""

    def address(self) -> Any:
        """Return what the others need to reach this rank."""

    def meet(self, members: Sequence[Any], addresses: Sequence[Any]) -> None:
        """Connect to all ranks. members: the actors' handles."""

    def close(self) -> None:
        """Leave the group. Ranks that still wait for this one find out."""


class ObjectComm(ActorComm):
    """Arrays travel through Ray's object store: no connection of our own, any number of nodes, a millisecond each."""

    kind = "objects"

    def __init__(self, rank: int, world_size: int, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__(rank, world_size, timeout_s)
        self.mailbox = Mailbox(world_size)
        self._members: Sequence[Any] = ()
        self._pending: dict[int, Any] = {}

    def meet(self, members: Sequence[Any], addresses: Sequence[Any]) -> None:
        self._members = members

    def send(self, to: int, array: Array) -> None:
        self._arrived(to)  # one message in flight per peer: keeps the order, raises errors at the sender
        call = self._members[to].call.options(concurrency_group=pool.ASIDE)
        self._pending[to] = call.remote("deliver", self.rank, (self.phase, array))

    def recv(self, source: int, out: Array | None = None) -> Array:
        return self.mailbox.take(self, source, out)

    def send_recv(self, to: int, array: Array, source: int, out: Array | None = None) -> Array:
        self.send(to, array)
        return self.recv(source, out)

    def _arrived(self, to: int) -> None:
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError

        if to in self._pending:
            try:
                ray.get(self._pending.pop(to), timeout=self.timeout_s)
            except GetTimeoutError:
                raise self.lost(to, late(self.timeout_s)) from None
            except RayActorError as error:
                raise self.lost(to, "has died") from error


class Rank:
    """A pool member's role as one rank. `deliver` runs in a thread beside `work`, so ranks can wait for each other."""

    def __init__(self, over: Sequence[type[ActorComm]], rank: int, world_size: int, timeout_s: float) -> None:
        self.comms = [kind(rank, world_size, timeout_s) for kind in over]

    def addresses(self) -> list[Any]:
        return [comm.address() for comm in self.comms]

    def meet(self, members: Sequence[Any], addresses: Sequence[Sequence[Any]]) -> None:
        for i, comm in enumerate(self.comms):
            comm.meet(members, [ranks[i] for ranks in addresses])

    def deliver(self, source: int, message: tuple[str, Array]) -> None:
        next(comm for comm in self.comms if isinstance(comm, ObjectComm)).mailbox.put(source, message)

    def work(self, work: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return work(*self.comms, *arguments)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for comm in self.comms:
            comm.close()


class ActorGroup:
    """Ranks on Ray actors, each with a `Comm` of every kind in `over`. A context manager; errors kill the actors."""

    def __init__(self, size: int, over: Sequence[type[ActorComm]] = (ObjectComm,), timeout_s: float = TIMEOUT_S):
        self._members = pool.hire(size, Rank, [(tuple(over), rank, size, timeout_s) for rank in range(size)])

    def __enter__(self) -> ActorGroup:
        try:
            addresses = gather(member.call.remote("addresses") for member in self._members)
            gather(member.call.remote("meet", self._members, addresses) for member in self._members)
        except BaseException:
            pool.release(self._members, done=False)
            raise
        return self

    def run(
        self, work: Callable[..., Any], arguments: Sequence[Sequence[Any]], returns: Sequence[int] | None = None
    ) -> list[Any]:
        """Run `work(*comms, *arguments[rank])` on every rank; results and `returns` as in `run_actors`."""
        counts = returns or [1] * len(arguments)
        calls = [m.call.options(num_returns=n) for m, n in zip(self._members, counts, strict=True)]
        results = [call.remote("work", work, *given) for call, given in zip(calls, arguments, strict=True)]
        kept = [result if isinstance(result, list) else [result] for result in results]
        values = _values([one for result in kept for one in result[:1]])  # a call's values become available at once
        return values if returns is None else kept

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            gather(member.call.remote("close") for member in self._members)
        pool.release(self._members, done=kind is None)


def run_actors(
    work: Callable[..., Any],
    arguments: Sequence[Sequence[Any]],
    *,
    returns: Sequence[int] | None = None,
    over: type[ActorComm] = ObjectComm,
    timeout_s: float = TIMEOUT_S,
) -> list[Any]:
    """Run `work(comm, *arguments[rank])` on one Ray actor per rank; return the ranks' results.

    returns: the number of values that each rank's `work` returns. The values then stay in Ray's object store, and a
    rank's result is a list of references to them: no value passes through this process. Raises UserError for no ranks,
    RankLost naming a rank that died, and otherwise a rank's own error.
    """
    require_ranks(arguments)
    with ActorGroup(len(arguments), [over], timeout_s) as group:
        return group.run(work, arguments, returns)


def _values(calls: Sequence[Any]) -> list[Any]:
    """Return the ranks' results. If one only lost another, wait shortly for the other's error, which is the cause."""
    import ray

    rank_of = {call: rank for rank, call in enumerate(calls)}
    values: list[Any] = [None] * len(calls)
    echoes: list[RankLost] = []
    waiting = list(calls)
    while waiting:
        done, waiting = ray.wait(waiting, timeout=GRACE_S if echoes else None)
        if not done:
            break
        for call in done:
            try:
                values[rank_of[call]] = gather([call])[0]
            except RankLost as error:
                echoes.append(error)
            except TransientError as error:
                raise _named(rank_of[call], error) from error.__cause__
    if echoes:
        raise echoes[0]
    return values


def _named(rank: int, error: TransientError) -> TransientError:
    """Say which rank died."""
    if not is_lost(error.__cause__ or error):
        return error
    return RankLost(f"rank {rank} died: {error.what}", where="Ray", fix="the work can be tried again")
