"""A Prefect server for one command, if none is configured: it starts and ends with the command.

Prefect can start one by itself, but only with the flow, after importing the whole server into the flow's process, too,
and a killed flow leaves it running. Started here, it loads in parallel, and the kernel ends it with this process.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from urllib.error import URLError
from urllib.request import urlopen

from flows.servers.tether import END_WITH_PARENT
from tasks.core.errors import RunError

START_TIMEOUT_S = 120.0  # the first start on a new machine migrates the database
STOP_TIMEOUT_S = 1.0  # a kill does not harm its database
SERVE = END_WITH_PARENT + "import uvicorn; uvicorn.main()"


class TemporaryServer:
    """A server process on a free port of the loopback interface. apart: Ctrl-C in a terminal does not reach it."""

    def __init__(self, *, apart: bool = False) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.api_url = f"http://127.0.0.1:{port}/api"
        arguments = ["--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1", "--port", str(port)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, *arguments, "--log-level", "error"],
            # Prefect starts its own temporary server with these settings.
            env={
                **os.environ,
                "PREFECT_UI_ENABLED": "0",
                "PREFECT__SERVER_EPHEMERAL": "1",
                "PREFECT__SERVER_FINAL": "1",
            },
            start_new_session=apart,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        atexit.register(self.stop)

    def wait(self) -> None:
        """Wait until the server answers. Raises RunError if it ends or takes too long."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(URLError, OSError), urlopen(f"{self.api_url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.05)
        raise RunError(
            "the temporary Prefect server did not start",
            where=self.api_url,
            fix="see the output of `prefect server start`, or set PREFECT_API_URL to a running server",
        )

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()


def start_if_needed(*, apart: bool = False) -> TemporaryServer | None:
    """Start a server and point Prefect at it, unless PREFECT_API_URL is set. Call it before importing Prefect."""
    if os.environ.get("PREFECT_API_URL"):
        return None
    server = TemporaryServer(apart=apart)
    os.environ["PREFECT_API_URL"] = server.api_url
    return server
