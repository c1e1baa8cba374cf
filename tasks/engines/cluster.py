"""The Ray session: attach to a cluster where an address is given, else start a local one on loopback.

This module owns the session of the process. Everything that runs on Ray goes through `gather`, so
that errors come back as the worker raised them.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLong
from importlib import import_module
from pathlib import Path
from typing import Any

from tasks.core.errors import RaymillError, TransientError
from tasks.core.sections import RayConfig
from tasks.engines import cluster_connect, nodes, ray_private
from tasks.engines.quiet import OFFLINE

# One thread per worker process: the parallelism is Ray's, and two pools would fight over the cores.
WORKER_ENV = {
    "POLARS_MAX_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # OpenMP's threads wait for each other asleep, not spinning: where others want the cores, as `tune` does beside
    # `train`, two spinning threads of XGBoost took 24 times as long as two sleeping ones, and 21 times the CPU.
    "OMP_WAIT_POLICY": "PASSIVE",
    **OFFLINE,
    # Ray Train's `report` blocks until the controller's next poll, 2 s apart by default.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    # A process for each training that asks whether its machine is about to be taken away. It is tried again anyway.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "MODIN_ENGINE": "ray",
}

# On a cluster, whatever a node's own environment says. It is Ray's default for a worker of less than two CPUs, and the
# last digits of BLAS's sums depend on it.
CLUSTER_ENV = {"OMP_NUM_THREADS": "1"}

# Of a session that this process starts.
LOCAL_ENV = {
    # The workers that Ray starts with a session have not the environment that our tasks ask for: none ever gets one.
    "RAY_prestart_worker_first_driver": "0",
    # Idle workers kept for the next stage: starting one costs 0.4 s of CPU. Ray's own limit is a worker per CPU, beyond
    # which it kills them, and starts as many again.
    "RAY_num_workers_soft_limit": "8",
    # Ray turns an explicit loopback address back into the outer one; without the permission to form a cluster, which
    # it asks for on other systems, a session is on loopback alone.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}

WARM = ("modin.pandas", "polars", "pyarrow.parquet")  # what the first stages' tasks import
_STARTING = threading.Lock()
_OWN = threading.Event()  # set while the session is one that this process has started
_CHECKED: set[str] = set()  # nodes of the cluster, by id, that are known to be fit
# Held while Ray's libraries are imported for the first time: two threads at once meet half-made modules.
IMPORTING = threading.Lock()


def start(config: RayConfig, shared: Path | None = None) -> None:
    """Connect to Ray unless this process already is connected. Threads that come second wait for the first.

    shared: a folder that all nodes of a cluster have to see; those that joined since the last call are asked. Raises
    UserError, in bounded time, where a cluster was asked for and is not there, does not fit, or has a node that does
    not.
    """
    with _STARTING:
        attaching = cluster_connect.wanted(config) is not None
        _set_environment({} if attaching else LOCAL_ENV)
        import ray  # not before the variables are set: Ray reads some of them when it is imported

        if not ray.is_initialized():
            _start_in_a_thread(config, cluster_connect.INIT_S if attaching else None)
            _CHECKED.clear()
        if attaching and shared is not None:
            _CHECKED.update(nodes.check(shared, _CHECKED))
        if attaching and not ray.cluster_resources().get("CPU"):
            logging.getLogger("raymill.ray").warning("no node of the cluster has CPUs: tasks wait until one joins")


def _start_in_a_thread(config: RayConfig, patience_s: float | None) -> None:
    outcome: Future[None] = Future()

    def keep() -> None:
        try:
            _start(config)
            outcome.set_result(None)
        except BaseException as error:
            outcome.set_exception(error)
        # Ray's processes ask the kernel to die with their parent, and that means the thread that started them.
        threading.Event().wait()

    threading.Thread(target=keep, name="ray-parent", daemon=True).start()
    try:
        outcome.result(timeout=patience_s)
    except TooLong:
        raise cluster_connect.too_slow(patience_s or 0, "ray.address") from None


def _set_environment(more: dict[str, str]) -> None:
    for name, value in {**WORKER_ENV, **more}.items():
        os.environ.setdefault(name, value)
    for noisy in ("ray.data", "ray.tune", "ray.train", "modin"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def _tell(data: dict[str, Any], *_: Any, **__: Any) -> None:
    for message in data["lines"]:
        # What follows is advice, and the end of a log.
        said = re.split(r"\n|(?<=\.) (?:This can happen|Possible reasons|To see)", message.strip())[0]
        logging.getLogger("raymill.ray").warning("%s", said)


def _start(config: RayConfig) -> None:
    import ray

    ray_private.send_messages_to(_tell)
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "ignore_reinit_error": True}
    if found := cluster_connect.examine(config):
        cluster_connect.check_is_node(found)
        environment = cluster_connect.runtime_env(config, {**WORKER_ENV, **CLUSTER_ENV})
        try:
            ray.init(address=found.address, runtime_env=environment, **common)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise cluster_connect.translated(error, found.where) from error
    else:
        ray.init(
            address="local",
            num_cpus=config.logical_cpus or max(2, os.cpu_count() or 1),
            object_store_memory=config.object_store_mb << 20,
            include_dashboard=False,
            **common,
        )
        _OWN.set()


def warm_workers() -> None:
    """Let the workers of this process's own session import WARM, before the first stage waits for it."""
    import ray

    if is_own():
        warm = ray.remote(_import_libraries)
        for _ in range(int(ray.cluster_resources().get("CPU", 0))):
            warm.remote()


def _import_libraries() -> None:
    for name in WARM:
        import_module(name)


def stop() -> None:
    """Leave the session; a local one ends with it."""
    import ray

    if ray.is_initialized():
        ray.shutdown()
    _OWN.clear()


def is_own() -> bool:
    """Whether the session was started by this process: on this machine alone, without a dashboard."""
    return _OWN.is_set()


def cpus() -> int:
    """How many busy processes are worth having: Ray's logical CPUs on all nodes, on one node no more than its cores.

    Twice the actors on the same two cores made a word count of 200 MB a quarter slower: each takes a second to start.
    """
    import ray

    logical = max(1, int(ray.cluster_resources().get("CPU", 1)))
    return logical if len(nodes.alive()) > 1 else min(logical, max(2, os.cpu_count() or 1))


def node_cpus() -> int:
    """The same of the smallest node that has any: what the threads of one process may be sized by."""
    own = [int(node["Resources"].get("CPU", 0)) for node in nodes.alive()]
    return min([cpus(), *(n for n in own if n)])


def gather(refs: Iterable[Any]) -> list[Any]:
    """`ray.get`, raising our own errors as the worker raised them and lost workers as TransientError."""
    import ray
    from ray import exceptions as lost

    try:
        return ray.get(list(refs))
    except lost.RayError as error:
        cause = error.cause if isinstance(error, lost.RayTaskError) else error
        if isinstance(cause, RaymillError):
            raise cause from None
        if is_lost(error):
            reason = str(cause).splitlines()[0]
            raise TransientError(f"Ray lost a worker: {reason}", fix="the stage is tried again") from error
        raise


def is_lost(error: BaseException) -> bool:
    """Whether this is Ray saying that a worker, an actor, a node or an object is gone, however deep it was wrapped."""
    from ray import exceptions as lost

    kinds: tuple[type[BaseException], ...] = (lost.RayActorError, lost.WorkerCrashedError, lost.NodeDiedError)
    kinds += (lost.ObjectLostError, lost.OutOfMemoryError)  # out of memory: Ray's memory monitor killed it
    return isinstance(error, kinds) or isinstance(getattr(error, "cause", None), kinds)
