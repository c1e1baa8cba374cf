"""Serve from this process alone, by uvicorn: no Ray, no hops between processes, and nobody who starts it again."""

from __future__ import annotations

from collections.abc import Callable

from flows.serve.app import make_app
from flows.serve.batches import Batches
from flows.serve.watch import begin
from tasks.settings import Settings


def serve(settings: Settings, wanted: str, ready: Callable[[str, str], None]) -> None:
    """Serve until SIGINT or SIGTERM; requests that have begun are answered. ready: hears model and version."""
    import uvicorn

    watch = begin(settings, wanted)
    config = settings.serve
    app = make_app(config, watch, Batches(watch.served.predict, config.batch_reviews))
    ready(watch.served.champion.name, watch.served.champion.version)
    watch.start()
    try:
        uvicorn.run(
            app, host=config.host, port=config.port, log_level="warning", access_log=False, server_header=False,
            timeout_graceful_shutdown=10,
        )  # fmt: skip
    finally:
        watch.stop()
