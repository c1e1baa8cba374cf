"""Start the flow from a command: with a Prefect server if none is configured, a warm-up in parallel, and the view."""

from __future__ import annotations

import gc
from collections.abc import Callable

from rich.console import Console

from flows.graph import GIVEN, Given
from flows.run.record import RunRecord
from flows.servers.temporary_server import start_if_needed
from tasks.core.secrets import shown
from tasks.core.stage import HasDigest
from tasks.core.storage.opening import open_store
from tasks.settings import Settings


def launch(settings: Settings, given: Given, console: Console, until: str | None = None) -> RunRecord:
    """Run `etl_train` on what was found, with its progress on `console`; return its record.

    Raises an error before any work if the registry or the bucket of snapshots does not answer.
    """

    def start(masked: Settings) -> RunRecord:
        from flows.etl_train import etl_train

        token = GIVEN.set(given)
        try:
            record: RunRecord = etl_train(masked.data.input, masked.data.dataset, settings=masked, until=until)
        finally:
            GIVEN.reset(token)
        return record

    return launched(settings, given.source, "ingest", console, start)


def launched(
    settings: Settings, source: HasDigest, reads: str, console: Console, start: Callable[[Settings], RunRecord]
) -> RunRecord:
    """Call `start` with the settings, masked, once what its flow needs is there. reads: the stage of the `source`."""
    prepare(settings, source, reads, console)
    return started(settings, start)


def prepare(settings: Settings, source: HasDigest, reads: str, console: Console, *, apart: bool = False) -> None:
    """Start what flows need, once in a process. apart: Ctrl-C in a terminal does not reach Prefect's server."""
    gc.disable()  # what is imported from here on is there to stay; `open_run` turns it on again
    from tasks.engines.tracking import reach, tracking_uri

    reach(tracking_uri(settings.tracking))
    open_store(settings.storage).check()
    server = start_if_needed(apart=apart)
    # Prefect may be imported from here on: it reads the server's address at import.
    from flows.cli.console import ConsoleView
    from flows.run.context import VIEW
    from flows.run.warm_up import warm_up
    from tasks.stages import declared_stages

    warm_up(settings, source, declared_stages()[reads])
    import flows.etl_train  # noqa: F401  # while the server starts

    if server is not None:
        server.wait()
    VIEW.set(ConsoleView(console))


def started(settings: Settings, start: Callable[[Settings], RunRecord]) -> RunRecord:
    """Call `start` with the settings, masked, which its flow then takes whole."""
    from flows.run.context import SETTINGS

    token = SETTINGS.set(settings)
    try:
        return start(shown(settings))
    finally:
        SETTINGS.reset(token)
