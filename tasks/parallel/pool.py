"""Worker processes that outlive a stage: one algorithm's mappers become the next one's ranks.

A Ray actor costs a second and a half of CPU before it does anything: a process, Ray's worker, numpy, Arrow, Polars. A
run on two cores would pay that again for each stage's actors. A `Member` plays any *role* it is given: an object whose
methods are called by name. Members that finished their work wait here for the next role, and die with the session.
After an error they are killed instead, so that no role inherits an inconsistent state.

Members wait only in a session that this process started. On a cluster a member holds half a CPU, so that Ray spreads
members by the nodes' cores, and is killed after its work: a waiting member would keep that half from others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from tasks.core.errors import RunError, TransientError
from tasks.engines import cluster

ASIDE = "aside"  # the concurrency group of calls that run beside the others, in their own thread
CPUS = 0.5  # of a member on a cluster; the other half is for the stage's other tasks and actors
_LOCK = threading.Lock()
_WAITING: dict[str, list[Any]] = {}  # by Ray's job: handles from an earlier session are dropped


class Member:
    """The actor. It imports nothing before it has a role."""

    def __init__(self) -> None:
        self._role: Any = None

    def begin(self, role: Callable[..., Any] | None, *arguments: Any) -> None:
        """Take the role `role(*arguments)`, or drop the current role if `role` is None."""
        self._role = role(*arguments) if role else None

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self._role, method)(*arguments)


def hire(count: int, role: Callable[..., Any], arguments: Sequence[Sequence[Any]], *, cpus: float = CPUS) -> list[Any]:
    """Return `count` members in their roles, `role(*arguments[i])`; waiting members are used first.

    cpus: CPUs that each new member holds on a cluster. Raises RunError if a member cannot take its role, TransientError
    if a new member dies while taking it.
    """
    import ray
    from ray.exceptions import RayError

    members: list[Any] = [None] * count
    waiting = _take(count)
    for i, call in enumerate([member.begin.remote(role, *arguments[i]) for i, member in enumerate(waiting)]):
        if _lives(call):
            members[i] = waiting[i]
        else:  # it died while it waited
            ray.kill(waiting[i])
    missing = [i for i, member in enumerate(members) if member is None]
    for i in missing:
        members[i] = _start(cpus)
    try:
        cluster.gather([members[i].begin.remote(role, *arguments[i]) for i in missing])
    except BaseException as error:
        release(members, done=False)
        if isinstance(error, RayError):
            raise RunError(
                f"a worker process could not start: {str(error).splitlines()[-1]}",
                where="Ray",
                fix="install the same code on all nodes",
            ) from error
        raise
    return members


def start(role: Callable[..., Any], arguments: Sequence[Any], *, cpus: float = CPUS) -> tuple[Any, Any]:
    """Start one more member, without waiting for it; returns it and its call of `begin`."""
    member = _start(cpus)
    return member, member.begin.remote(role, *arguments)


def release(members: Sequence[Any], *, done: bool) -> None:
    """Let members wait for the next role if their work is `done` and this process owns the session, else kill them."""
    import ray

    if done and cluster.is_own():
        for member in members:
            member.begin.remote(None)
        with _LOCK:
            _WAITING.setdefault(_job(), []).extend(members)
    else:
        for member in members:
            ray.kill(member)


def clear() -> None:
    """Kill all waiting members."""
    import ray

    for member in _take(None):
        ray.kill(member)


def _take(count: int | None) -> list[Any]:
    with _LOCK:
        waiting = _WAITING.get(_job(), [])
        taken, rest = waiting[:count], waiting[len(waiting) if count is None else count :]
        _WAITING.clear()
        _WAITING[_job()] = rest
    return taken


def _start(cpus: float) -> Any:
    import ray

    held = 0 if cluster.is_own() else cpus
    # Ray's type annotations lack `concurrency_groups`.
    options: dict[str, Any] = {"num_cpus": held, "concurrency_groups": {ASIDE: 1}}
    return ray.remote(**options)(Member).remote()


def _lives(call: Any) -> bool:
    """Return whether a member took its role. If the role failed, a new member will raise the same error again."""
    from ray.exceptions import RayError

    try:
        cluster.gather([call])
    except (RayError, TransientError):
        return False
    return True


def _job() -> str:
    import ray

    return str(ray.get_runtime_context().get_job_id())
