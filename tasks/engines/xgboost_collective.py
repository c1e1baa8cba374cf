"""XGBoost's communicator between the workers of Ray Train, and what they tell each other through it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tasks.core.errors import RaymillError
from tasks.engines import nodes


@contextmanager
def communicator(rank: int, size: int, device: str) -> Iterator[None]:
    """Connect the workers for XGBoost's all-reduce, with the tracker in rank 0.

    `ray.train.xgboost` runs the tracker in Ray Train's controller, which costs XGBoost's import and memory once more.
    """
    if size == 1:
        yield
        return
    import ray
    from ray.train.collective import broadcast_from_rank_zero
    from xgboost.collective import CommunicatorContext
    from xgboost.tracker import RabitTracker

    if device == "cuda":  # XGBoost talks by NCCL, which would listen on the first interface that it finds
        os.environ["NCCL_SOCKET_IFNAME"] = nodes.interface_of(ray.util.get_node_ip_address())
    tracker = None
    if rank == 0:
        tracker = RabitTracker(n_workers=size, host_ip=ray.util.get_node_ip_address(), sortby="task")
        tracker.start()
    arguments = broadcast_from_rank_zero(dict(tracker.worker_args()) if tracker else None)
    # XGBoost numbers its ranks in the order of these ids, so they equal Ray Train's.
    with CommunicatorContext(**arguments, dmlc_task_id=f"{rank:08}"):
        yield
    if tracker:
        tracker.wait_for()


def broadcast(value: Any, size: int, root: int = 0) -> Any:
    from xgboost import collective

    return value if size == 1 else collective.broadcast([value], root)[0]  # in a list, as it accepts no None


def first_of(problem: RaymillError | None, rank: int, size: int) -> RaymillError | None:
    """Return, on every rank, the problem of the lowest rank that has one."""
    if size == 1:
        return problem
    import numpy as np
    from xgboost import collective

    root = int(collective.allreduce(np.array([rank if problem else size]), collective.Op.MIN)[0])
    first: RaymillError | None = broadcast(problem, size, root) if root < size else None
    return first
