"""Serve through Ray Serve: a proxy, and replicas that each hold the model, batch requests and follow the registry."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from urllib.request import urlopen

from flows.serve.reviews import Asked, Prediction
from flows.servers.services import reached_at
from tasks.core.errors import RaymillError, RunError, SettingsError
from tasks.settings import Settings

NAME = "raymill"
AT_ONCE = 512  # requests in a replica; Ray's default of 5 would keep batches small
TIMEOUT_S = 60
REPLICA_CPUS = 0.5  # of Ray's
# Ray runs workers at a niceness of 15: whatever else the machine does would come before an answer.
SERVE_ENV = {"RAY_worker_niceness": "0"}


def check_installed() -> None:
    """Raise SettingsError if Ray Serve's packages are missing."""
    if find_spec("grpc") is None or find_spec("mmh3") is None:
        raise SettingsError(
            "Ray Serve's packages are not installed",
            where="serve.through",
            fix='pip install --constraint constraints.txt --editable ".[serve]", or --set serve.through=process',
        )


def serve(settings: Settings, wanted: str, ready: Callable[[str, str], None]) -> None:
    """Serve until SIGINT or SIGTERM. ready: hears model and version.

    Raises RegistryError if there is no champion, SettingsError if the replicas do not fit, RunError if Ray Serve fails.
    """
    check_installed()
    for name, value in SERVE_ENV.items():
        os.environ.setdefault(name, value)
    from flows.serve.registry import MlflowRegistry, first
    from tasks.engines import cluster

    first(MlflowRegistry(settings), wanted)  # a replica would fail three times, and hide why
    stopped = threading.Event()
    try:
        with signals_as(_interrupt):  # a start may wait for ever
            cluster.start(settings.ray)
            check_room(settings)
            check_options(settings)
            with serving():
                health = run(settings, wanted)
                with signals_as(lambda *_: stopped.set()):
                    ready(health["model"], health["version"])
                    stopped.wait()
    finally:
        cluster.stop()


@contextmanager
def signals_as(act: Callable[..., None]) -> Iterator[None]:
    """Let `act` answer SIGINT and SIGTERM while the block runs."""
    before = {number: signal.signal(number, act) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def serving() -> Iterator[None]:
    """End what the block serves: on a cluster of others this application alone, as theirs may be there, too."""
    from ray import serve as ray_serve

    from tasks.engines import cluster

    try:
        yield
    finally:
        if cluster.is_own():
            ray_serve.shutdown()
        elif NAME in ray_serve.status().applications:
            ray_serve.delete(NAME)


def check_room(settings: Settings) -> None:
    """Raise SettingsError if this process's own session has no room for all replicas: Ray would wait for it for ever.

    A cluster may get more nodes.
    """
    import ray

    from tasks.engines import cluster

    cpus = ray.cluster_resources().get("CPU", 0)
    wanted, most = settings.serve.replicas, int(cpus / REPLICA_CPUS)
    if cluster.is_own() and wanted > most:
        raise SettingsError(
            f"{wanted} replicas take {REPLICA_CPUS} CPUs each, and Ray has {cpus:g}",
            where="serve.replicas",
            fix=f"{most} at most, or more ray.logical_cpus",
        )


def check_options(settings: Settings) -> None:
    """Raise SettingsError if the cluster's Ray Serve listens elsewhere already: it would ignore our address."""
    from tasks.engines import ray_private

    address, ours = ray_private.serve_address(), (settings.serve.host, settings.serve.port)
    if address not in (None, ours):
        raise SettingsError(
            "Ray Serve is up on this cluster, at {}, port {}".format(*address or ()),
            where="serve.host, serve.port",
            fix="give the same, or --set serve.through=process",
        )


def run(settings: Settings, wanted: str) -> dict[str, Any]:
    """Start the proxy and the replicas in this process's Ray session; returns `app.health` of a replica.

    Raises RunError if they do not start.
    """
    try:
        return _run(settings, wanted)
    except RaymillError:
        raise
    except Exception as error:  # RuntimeError with a replica's traceback in it, TimeoutError, URLError, Ray's own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = lines[0] if len(lines) == 1 else f"{lines[0]} … {lines[-1].strip()}"
        raise RunError(f"Ray Serve did not start: {reason}", fix="Ray's logs tell more") from error


def _run(settings: Settings, wanted: str) -> dict[str, Any]:
    from ray import serve as ray_serve
    from ray.serve.config import HTTPOptions

    from tasks.engines import cluster

    config = settings.serve
    ray_serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(host=config.host, port=config.port, request_timeout_s=TIMEOUT_S),
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )
    ray_serve.run(deployment(settings).bind(settings, wanted, cluster.is_own()), name=NAME, route_prefix="/")
    with urlopen(f"http://{reached_at(config.host)}:{config.port}/healthz", timeout=TIMEOUT_S) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def deployment(settings: Settings) -> Any:
    """Return the deployment of Ray Serve. Its class is made here: Ray Serve is imported only where it is used."""
    from ray import serve as ray_serve
    from ray.serve.config import BackpressureConfig

    config = settings.serve

    @ray_serve.deployment(
        name="champion",
        num_replicas=config.replicas,
        max_ongoing_requests=AT_ONCE,
        max_queued_requests=config.max_waiting,  # in the proxy, which knows requests, not reviews
        backpressure_config=BackpressureConfig(retry_after_s=1),
        ray_actor_options={"num_cpus": REPLICA_CPUS},
        graceful_shutdown_timeout_s=10,
        health_check_period_s=2,
        health_check_timeout_s=30,
    )
    @ray_serve.ingress()
    class Replica:
        def __init__(self, settings: Settings, wanted: str, alone: bool) -> None:
            from flows.run import environment
            from flows.serve.watch import begin
            from tasks.engines import ray_private

            if alone:
                ray_private.serve_on_loopback()
            environment.prepare()
            self.config = settings.serve
            self.watch = begin(settings, wanted).start()
            self.thread = ThreadPoolExecutor(1, "score")

        def __serve_build_asgi_app__(self) -> Any:
            from flows.serve.app import make_app

            async def predict(asked: Asked) -> list[Prediction]:
                found: list[Prediction] = await self.batched(asked)
                return found

            return make_app(self.config, self.watch, predict)

        @ray_serve.batch(
            max_batch_size=max(config.batch_reviews, config.max_reviews),  # one request must fit
            batch_wait_timeout_s=0,
            batch_size_fn=lambda batch: sum(len(asked.reviews) for asked in batch),
        )
        async def batched(self, asked: list[Asked]) -> list[list[Prediction]]:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self.thread, self.watch.served.predict, asked)

    return Replica
