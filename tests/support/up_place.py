"""A place where tests run `raymill up`: ports, databases, with their tables, and folders of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tasks.core.sections import PROJECT
from tests.support.command import Done, raymill
from tests.support.mlflow_database import new_database
from tests.support.prefect_server import make_database

UP_TIMEOUT_S, RUN_TIMEOUT_S = 120.0, 300.0


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(true: Callable[[], Any], seconds: float, what: str) -> Any:
    """What `true` returns once that is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := true():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what}")


@dataclass
class Place:
    """A user's machine: where `up` keeps its state, databases, snapshots, and its ports."""

    root: Path
    more: dict[str, str] = field(default_factory=dict)
    prefect: int = field(default_factory=free_port)
    mlflow: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        make_database(self.root / "prefect")
        new_database(self.root / "mlflow.db")

    @property
    def env(self) -> dict[str, str]:
        own = {
            "RAYMILL_SERVICES_DIR": str(self.services),
            "PREFECT_HOME": str(self.root / "prefect"),
            "RAYMILL__SERVICES__PREFECT_PORT": str(self.prefect),
            "RAYMILL__SERVICES__MLFLOW_PORT": str(self.mlflow),
            "RAYMILL__SERVICES__MLFLOW_DATABASE": f"sqlite:///{self.root / 'mlflow.db'}",
            "RAYMILL__SERVICES__MLFLOW_ARTIFACTS": str(self.root / "artifacts"),
            "RAYMILL__STORAGE__ROOT": str(self.root / "data"),
            "RAYMILL__DATA__INPUT": str(self.root / "reviews"),
            "COLUMNS": "200",
        }
        inherited = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL")}
        return {**inherited, **own, **self.more}

    @property
    def services(self) -> Path:
        return self.root / "services"

    @property
    def log(self) -> str:
        return (self.services / "up.log").read_text()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "flows.cli.main", "up", *arguments]
        output = (self.root / "output").open("w")
        return subprocess.Popen(command, env=self.env, cwd=PROJECT, text=True, stdout=output, stderr=output)

    @property
    def output(self) -> str:
        return (self.root / "output").read_text()

    def up(self) -> subprocess.Popen[str]:
        process = self.start()

        def ready() -> bool:
            assert process.poll() is None, self.output
            return "up in" in self.output

        wait_for(ready, UP_TIMEOUT_S, "up")
        return process

    def shell(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.cli.main", *arguments]
        return subprocess.run(command, env=self.env, cwd=PROJECT, capture_output=True, text=True, timeout=60)

    def prefect_says(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "prefect", *arguments]
        env = {**self.env, "PREFECT_API_URL": f"http://127.0.0.1:{self.prefect}/api"}
        done = subprocess.run(command, env=env, cwd=PROJECT, capture_output=True, text=True, timeout=RUN_TIMEOUT_S)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def call(self, *arguments: str) -> Done:
        """Call a command in this process."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
                patch.delenv(name, raising=False)
            return raymill(*arguments, **self.env)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.call("status", "--json", "-").stdout)
        return found
