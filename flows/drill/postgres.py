"""A PostgreSQL server of one's own, if the machine has the programs, which Debian leaves out of the path."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from flows.drill.servers import free_port


@dataclass
class Postgres:
    """A server on loopback: user `raymill` with a password, databases made on request."""

    folder: Path
    programs: Path
    port: int = field(default_factory=free_port)
    password: str = "spoken-nowhere-else"

    def url(self, scheme: str, database: str) -> str:
        return f"{scheme}://raymill:{self.password}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> None:
        env = {**os.environ, "PGPASSWORD": self.password}
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "raymill"]
        subprocess.run([str(self.programs / "createdb"), *where, database], env=env, check=True, timeout=60)

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self.run("pg_ctl", "-D", str(self.folder / "db"), "-l", str(self.folder / "log"), "-o", options, "-w", "start")

    def stop(self) -> None:
        """End the server at once, as a crash does, unless it has ended."""
        if (self.folder / "db" / "postmaster.pid").exists():
            self.run("pg_ctl", "-D", str(self.folder / "db"), "-m", "immediate", "-w", "stop")

    def run(self, program: str, *arguments: str) -> None:
        # It refuses to run as root; the package made a user for it.
        user: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        command = [str(self.programs / program), *arguments]
        # Not captured: the server keeps what it is given, and the call would wait for it to end.
        subprocess.run(
            command, check=True, timeout=120, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user
        )


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs; None if there is none."""
    found = [p.parent for p in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    if which := shutil.which("initdb"):
        found.append(Path(which).resolve().parent)
    return found[-1] if found else None


@contextmanager
def postgres(where: Path) -> Iterator[Postgres]:
    """Run a server while the block does. where: the folder of the programs."""
    # Not a TemporaryDirectory: a process forked meanwhile would remove it when it ends.
    server = Postgres(Path(mkdtemp(prefix="raymill-postgres-")), where)
    try:
        (server.folder / "password").write_text(server.password)
        if os.geteuid() == 0:
            for path in (server.folder, server.folder / "password"):
                shutil.chown(path, "postgres", "postgres")
        auth = ["--auth", "scram-sha-256", "--username", "raymill", "--pwfile", str(server.folder / "password")]
        server.run("initdb", "-D", str(server.folder / "db"), *auth, "--no-sync")
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)
