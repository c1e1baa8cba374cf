"""A Prefect server of its own for tests."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from flows.servers.temporary_server import TemporaryServer

DRAIN_S = 30.0
LIMIT_S = 300.0  # for what takes a few seconds where the machine is free


@contextmanager
def running() -> Iterator[str]:
    """The address of its API, which flows and clients of this process use in the block."""
    make_database(Path(os.environ["PREFECT_HOME"]))
    server = TemporaryServer()
    try:
        server.wait()
        # Log lines still on their way would look for the server, for a minute, when it is gone.
        with temporary_settings({PREFECT_API_URL: server.api_url, PREFECT_LOGGING_TO_API_ENABLED: False}):
            yield server.api_url
            # What is still on its way would look for the server at exit, for ever.
            EventsWorker.drain_all(timeout=DRAIN_S)
    finally:
        server.stop()


def make_database(home: Path) -> None:
    """Put Prefect's database into its folder, unless it is there: to make tables takes seconds, so they are copied."""
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "prefect.db").exists():
        (home / "prefect.db").write_bytes(_empty_database())


@cache
def _empty_database() -> bytes:
    with TemporaryDirectory(prefix="raymill-prefect-") as home:
        command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
        subprocess.run(command, env={**os.environ, "PREFECT_HOME": home}, check=True, capture_output=True)
        file = Path(home) / "prefect.db"
        with closing(sqlite3.connect(file)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return file.read_bytes()


@contextmanager
def connected() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def until(condition: Callable[[], Any]) -> Any:
    """Wait until the condition is true; returns what it found."""
    deadline = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.2)
    return found
