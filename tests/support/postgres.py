"""A PostgreSQL server of its own for tests, if the machine has the programs, which Debian leaves out of the path."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest


@dataclass
class Postgres:
    """A server on loopback: user `raymill` with a password, databases made on request."""

    folder: Path
    programs: Path
    port: int
    password: str = "spoken-nowhere-else"

    def url(self, scheme: str, database: str) -> str:
        return f"{scheme}://raymill:{self.password}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> None:
        env = {**os.environ, "PGPASSWORD": self.password}
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "raymill"]
        subprocess.run([str(self.programs / "createdb"), *where, database], env=env, check=True, timeout=60)

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._run("pg_ctl", "-D", str(self.folder / "db"), "-l", str(self.folder / "log"), "-o", options, "-w", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "db"), "-m", "immediate", "-w", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        # It refuses to run as root; the package made a user for it.
        user: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        command = [str(self.programs / program), *arguments]
        # Not captured: the server keeps what it is given, and the call would wait for it to end.
        subprocess.run(
            command, check=True, timeout=120, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user
        )


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server that runs while the block does. Skips the test where there are no programs."""
    found = [p.parent for p in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    if which := shutil.which("initdb"):
        found.append(Path(which).resolve().parent)
    if not found:
        pytest.skip("no PostgreSQL on this machine (Debian: apt install postgresql)")
    with TemporaryDirectory(prefix="raymill-postgres-") as name, closing(socket.socket()) as probe:
        folder = Path(name)
        probe.bind(("127.0.0.1", 0))
        server = Postgres(folder, found[-1], int(probe.getsockname()[1]))
        probe.close()
        (folder / "password").write_text(server.password)
        if os.geteuid() == 0:
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres", "postgres")
        auth = ["--auth", "scram-sha-256", "--username", "raymill", "--pwfile", str(folder / "password")]
        server._run("initdb", "-D", str(folder / "db"), *auth, "--no-sync")
        server.start()
        try:
            yield server
        finally:
            server.stop()
