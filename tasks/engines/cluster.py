"""The process's Ray session: attach to a cluster if an address is given, else start a local one on loopback.

`gather` returns the results of tasks, and raises errors as the worker raised them.
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

# One thread per worker process: Ray parallelises over processes, so thread pools would only compete for the cores.
WORKER_ENV = {
    "POLARS_MAX_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # OpenMP's threads sleep while they wait, instead of spinning. Where others want the cores, as `tune` does beside
    # `train`, two spinning threads of XGBoost took 24 times as long as two sleeping ones, and 21 times the CPU.
    "OMP_WAIT_POLICY": "PASSIVE",
    **OFFLINE,
    # Ray Train's `report` blocks until the controller's next poll, 2 s apart by default.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    # The watcher is one more process per training, which looks for notices of preemption. We retry lost workers anyway.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "MODIN_ENGINE": "ray",
}

# On a cluster these override a node's own environment. One thread is Ray's default for a worker of less than two CPUs,
# and the last digits of BLAS's sums depend on it.
CLUSTER_ENV = {"OMP_NUM_THREADS": "1"}

# For a session that this process starts.
LOCAL_ENV = {
    # The workers that Ray starts in advance lack the environment that our tasks ask for, so they would stay unused.
    "RAY_prestart_worker_first_driver": "0",
    # Keep idle workers for the next stage: starting one costs 0.4 s of CPU. By default Ray keeps one worker per CPU,
    # kills the others, and starts as many again.
    "RAY_num_workers_soft_limit": "8",
    # Stay on loopback. Ray replaces an explicit loopback address by the outer one, unless this variable, meant for
    # other systems, forbids clusters.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}

WARM = ("modin.pandas", "polars", "pyarrow.parquet")  # what the first stages' tasks import
_STARTING = threading.Lock()
_OWN = threading.Event()  # set while this process has a session that it started itself
_CHECKED: set[str] = set()  # ids of the cluster's nodes that passed `nodes.check`
# Held while Ray's libraries are first imported: two threads that import at once see half-initialised modules.
IMPORTING = threading.Lock()


def start(config: RayConfig, shared: Path | None = None) -> None:
    """Connect to Ray unless this process is already connected. Other threads wait for the first.

    shared: a folder that all nodes of a cluster must see; nodes that joined since the last call are checked. Raises
    UserError, in bounded time, if the cluster asked for is unreachable or incompatible, or one of its nodes is.
    """
    with _STARTING:
        attaching = cluster_connect.wanted(config) is not None
        _set_environment({} if attaching else LOCAL_ENV)
        import ray  # only after the variables are set: Ray reads some of them at import

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
        # Ray's processes ask the kernel to kill them with their parent, which means the thread that started them.
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


def _log(data: dict[str, Any], *_: Any, **__: Any) -> None:
    for message in data["lines"]:
        # Cut off the advice and the end of a log file that follow.
        event = re.split(r"\n|(?<=\.) (?:This can happen|Possible reasons|To see)", message.strip())[0]
        logging.getLogger("raymill.ray").warning("%s", event)


def _start(config: RayConfig) -> None:
    import ray

    ray_private.send_messages_to(_log)
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "ignore_reinit_error": True}
    if target := cluster_connect.examine(config):
        cluster_connect.check_is_node(target)
        environment = cluster_connect.runtime_env(config, {**WORKER_ENV, **CLUSTER_ENV})
        try:
            ray.init(address=target.address, runtime_env=environment, **common)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise cluster_connect.translated(error, target.where) from error
    else:
        ray_private.on_loopback(alone=True)
        ray.init(
            address="local",
            num_cpus=config.logical_cpus or max(2, os.cpu_count() or 1),
            object_store_memory=config.object_store_mb << 20,
            include_dashboard=False,
            **common,
        )
        _OWN.set()


def warm_workers() -> None:
    """Import WARM in the workers of this process's own session, before the first stage needs it."""
    import ray

    if is_own():
        warm = ray.remote(_import_libraries)
        for _ in range(int(ray.cluster_resources().get("CPU", 0))):
            warm.remote()


def _import_libraries() -> None:
    for name in WARM:
        import_module(name)


def stop() -> None:
    """Disconnect from Ray, which ends a local session."""
    import ray

    if ray.is_initialized():
        ray.shutdown()
    if is_own():
        ray_private.on_loopback(alone=False)
    _OWN.clear()


def is_own() -> bool:
    """Return whether this process started the session: on this machine alone, without a dashboard."""
    return _OWN.is_set()


def cpus() -> int:
    """Return how many busy processes to run: Ray's logical CPUs of all nodes, on one node no more than its cores.

    Twice the actors on the same two cores made a word count of 200 MB a quarter slower: each takes a second to start.
    """
    import ray

    logical = max(1, int(ray.cluster_resources().get("CPU", 1)))
    return logical if len(nodes.alive()) > 1 else min(logical, max(2, os.cpu_count() or 1))


def node_cpus() -> int:
    """Return the CPUs of the smallest node that has any, at most `cpus()`: a limit for the threads of one process."""
    own = [int(node["Resources"].get("CPU", 0)) for node in nodes.alive()]
    return min([cpus(), *(n for n in own if n)])


def gather(refs: Iterable[Any]) -> list[Any]:
    """Call `ray.get`. Raises our own errors as the worker raised them, and TransientError for a lost worker."""
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
    """Return whether Ray reports the loss of a worker, an actor, a node or an object, in the error or its cause."""
    from ray import exceptions as lost

    kinds: tuple[type[BaseException], ...] = (lost.RayActorError, lost.WorkerCrashedError, lost.NodeDiedError)
    kinds += (lost.ObjectLostError, lost.OutOfMemoryError)  # out of memory: Ray's memory monitor killed it
    return isinstance(error, kinds) or isinstance(getattr(error, "cause", None), kinds)
