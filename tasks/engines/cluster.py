"""The Ray session: attach to a cluster where an address is given, else start a local one on loopback.

This module owns the only global state of the project. Everything that runs on Ray goes through `gather`,
so that errors come back as the worker raised them.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable
from typing import Any

from tasks.core.errors import RaymillError, TransientError
from tasks.core.settings import RayConfig

# One thread per worker process: the parallelism is Ray's, and two pools would fight over the cores.
WORKER_ENV = {
    "POLARS_MAX_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "GX_ANALYTICS_ENABLED": "False",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Ray Train's `report` blocks until the controller's next poll, 2 s apart by default.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "MODIN_ENGINE": "ray",
    # Workers started at once. Ray counts cores and warns at four times as many processes; ours are mostly waiting.
    "RAY_maximum_startup_concurrency": "4",
}

# Ray turns an explicit loopback address back into the outer one; without the permission to form a cluster, which it
# asks for on other systems, a session is on loopback alone.
LOOPBACK_ENV = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


_STARTING = threading.Lock()


def start(config: RayConfig) -> None:
    """Connect to Ray unless this process already is connected. Threads that come second wait for the first."""
    with _STARTING:
        _start(config)


def _start(config: RayConfig) -> None:
    address = config.address or os.environ.get("RAY_ADDRESS")
    for name, value in {**WORKER_ENV, **({} if address else LOOPBACK_ENV)}.items():
        os.environ.setdefault(name, value)
    for noisy in ("ray.data", "ray.tune", "ray.train", "modin"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    import ray  # not before the variables are set: Ray reads some of them when it is imported

    if ray.is_initialized():
        return
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "ignore_reinit_error": True}
    if address:
        ray.init(address=address, runtime_env={"env_vars": WORKER_ENV}, **common)
    else:
        ray.init(
            num_cpus=config.logical_cpus or 2 * (os.cpu_count() or 1),
            object_store_memory=config.object_store_mb << 20,
            include_dashboard=False,
            **common,
        )


def stop() -> None:
    """Leave the session; a local one ends with it."""
    import ray

    if ray.is_initialized():
        ray.shutdown()


def gather(refs: Iterable[Any]) -> list[Any]:
    """`ray.get`, raising our own errors as the worker raised them and lost workers as TransientError."""
    import ray
    from ray import exceptions as lost

    try:
        return ray.get(list(refs))
    except lost.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, RaymillError):
            raise cause from None
        raise
    except (lost.RayActorError, lost.WorkerCrashedError, lost.NodeDiedError, lost.ObjectLostError) as error:
        raise TransientError(
            f"Ray lost a worker: {str(error).splitlines()[0]}", fix="the stage is tried again"
        ) from error
