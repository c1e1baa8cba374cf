"""Servers of the drill's own, on loopback, that are killed, stopped and started again: MLflow's, Prefect's, S3's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from urllib.error import URLError
from urllib.request import Request, urlopen

from flows.servers.tether import END_WITH_PARENT
from tasks.core.errors import RunError

START_TIMEOUT_S = 300.0  # some five seconds where the machine is free


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server(ABC):
    """A server process on a port of its own, with all it keeps in one folder."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    @abstractmethod
    def health(self) -> str:
        """Return the address that answers when the server is up."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command that serves on the port."""

    def variables(self) -> dict[str, str]:
        return {}

    def start(self) -> None:
        """Start the process and wait until it answers. Raises RunError if it ends or takes too long."""
        log = self.folder / f"{type(self).__name__.lower()}.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command(),
                env={**os.environ, **self.variables()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(URLError, OSError), urlopen(self.health, timeout=5):
                return
            time.sleep(0.1)
        raise RunError("the server did not start", where=self.uri, fix=f"see {log}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and its workers: SIGSTOP makes it silent, SIGCONT answers again."""
        if self.process is not None:
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


class MlflowServer(Server):
    """MLflow's server, on the folder's database."""

    database: str = "mlflow.db"

    @property
    def health(self) -> str:
        return f"{self.uri}/health"

    def command(self) -> list[str]:
        serve = f"{END_WITH_PARENT}import runpy; runpy.run_module('mlflow', run_name='__main__', alter_sys=True)"
        words = ["server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        stores = [f"sqlite:///{self.folder / self.database}", f"{self.folder / 'artifacts'}"]
        return [
            *(sys.executable, "-c", serve, *words),
            *(f"--backend-store-uri={stores[0]}", f"--artifacts-destination={stores[1]}"),
        ]

    def variables(self) -> dict[str, str]:
        return {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


class PrefectServer(Server):
    """Prefect's server, on a SQLite database in the folder."""

    @property
    def api(self) -> str:
        return f"{self.uri}/api"

    @property
    def health(self) -> str:
        return f"{self.api}/health"

    def command(self) -> list[str]:
        serve = f"{END_WITH_PARENT}import uvicorn; uvicorn.main()"
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--log-level", "error"]
        return [sys.executable, "-c", serve, "--factory", "prefect.server.api.server:create_app", *where]

    def variables(self) -> dict[str, str]:
        # Prefect starts its own temporary server with the last two.
        return {
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_UI_ENABLED": "0",
            "PREFECT__SERVER_EPHEMERAL": "1",
            "PREFECT__SERVER_FINAL": "1",
        }


class S3Server(Server):
    """An S3 server, moto's, which forgets all when it ends. Any credentials will do."""

    bucket: str = "drill"
    CREDENTIALS: ClassVar[dict[str, str]] = {
        "AWS_ACCESS_KEY_ID": "drill",
        "AWS_SECRET_ACCESS_KEY": "drill-only",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }

    @property
    def url(self) -> str:
        """Return the address of a folder in the bucket, as storage.remote takes it."""
        return f"s3://{self.bucket}/home?endpoint_override=127.0.0.1:{self.port}&scheme=http"

    @property
    def health(self) -> str:
        return f"{self.uri}/moto-api/data.json"

    def command(self) -> list[str]:
        serve = f"{END_WITH_PARENT}from moto.server import main; main(sys.argv[1:])"
        return [sys.executable, "-c", serve, "-H", "127.0.0.1", "-p", str(self.port)]

    def start(self) -> None:
        super().start()
        made = Request(f"{self.uri}/{self.bucket}", method="PUT", headers={"Authorization": "AWS drill:drill"})
        urlopen(made, timeout=30).close()
