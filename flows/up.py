"""`raymill up`, `status` and `down`: the servers, the worker, the deployments and the schedule of unattended nights."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import psutil
from rich.console import Console

from flows.services import Service, clients, plan, state_folder
from flows.supervisor import LOG_BYTES, Supervisor, end, leftovers
from tasks.core.errors import RunError, SettingsError
from tasks.core.sections import PROJECT
from tasks.core.settings import Settings, masked

READY_TIMEOUT_S = 120.0  # the first start migrates both databases
DOWN_TIMEOUT_S = 10.0
COLORS = {"prefect": "cyan", "mlflow": "magenta", "worker": "green", "up": "bold"}


def up(settings: Settings, console: Console, overrides: Sequence[str], profile: str | None) -> None:
    """Start everything, keep it running, stop it when told to. Raises an error before or after that, never during."""
    folder = state_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        began = time.perf_counter()
        services = plan(settings, overrides, profile, folder)
        for left in leftovers(folder):
            console.print(f"ending what an earlier one left: process {left.pid}", highlight=False)
        end(leftovers(folder))
        check_databases(settings)
        for service in services:
            check_port(service, settings)
        with log(folder, console) as say:
            supervisor = Supervisor(folder, say)
            with supervisor.signals():
                try:
                    _start(supervisor, services, settings)
                    console.print(_ready(services, settings, time.perf_counter() - began), highlight=False)
                    supervisor.watch()
                except KeyboardInterrupt:
                    pass
                finally:
                    say("up", "stopping")
                    supervisor.stop()
                    say("up", "stopped")


def _start(supervisor: Supervisor, services: Sequence[Service], settings: Settings) -> None:
    servers, worker = services[:-1], services[-1]
    for service in servers:
        supervisor.start(service)
    # Prefect gets ready first: the worker needs it alone, and makes its work pool.
    supervisor.wait_until_healthy([s.name for s in servers if s.name == "prefect"], READY_TIMEOUT_S)
    supervisor.start(worker)
    deploy(worker, supervisor)
    supervisor.wait_until_healthy([s.name for s in servers], READY_TIMEOUT_S)


def deploy(worker: Service, supervisor: Supervisor) -> None:
    """Apply prefect.yaml and what belongs to it, with the worker's variables."""
    command = [sys.executable, "-m", "flows.deploy"]
    done = subprocess.run(
        command, env={**os.environ, **worker.env}, cwd=PROJECT, capture_output=True, text=True, timeout=READY_TIMEOUT_S
    )
    for line in (done.stdout + done.stderr).splitlines():
        supervisor.say("deploy", line)
    if done.returncode:
        raise RunError("prefect.yaml could not be applied", where=str(PROJECT / "prefect.yaml"), fix="see the log")


def _ready(services: Sequence[Service], settings: Settings, seconds: float) -> str:
    urls = {s.name: s.url for s in services if s.url}
    env = services[-1].env
    api, tracking = env["PREFECT_API_URL"], env["MLFLOW_TRACKING_URI"]
    lines = [
        f"up in {seconds:.0f} s; Ctrl-C or `raymill down` stops everything",
        f"  Prefect   {urls.get('prefect', api.removesuffix('/api'))}",
        f"  MLflow    {urls.get('mlflow', masked(tracking))}",
        f"  reports   {(settings.storage.path / 'reports').as_uri()}",
        "start a run now:  prefect deployment run etl-train/default",
    ]
    if api != DEFAULT_API:
        lines.append(f"                  with PREFECT_API_URL={api}")
    return "\n".join(lines)


DEFAULT_API = "http://127.0.0.1:4200/api"  # pyproject.toml tells it to Prefect's own command


def check_port(service: Service, settings: Settings) -> None:
    """Raise RunError where somebody listens already, saying who."""
    if not service.url:
        return
    port = int(service.url.rpartition(":")[2])
    with suppress(psutil.AccessDenied):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                raise RunError(
                    f"port {port}, which {service.name} is to have, is in use by {_who(connection.pid)}",
                    where="services",
                    fix=f"stop it, or choose another: --set services.{service.name}_port={port + 1}",
                )


def _who(pid: int | None) -> str:
    if pid is None:
        return "a process of another user"
    with suppress(psutil.Error):
        return f"process {pid} ({' '.join(psutil.Process(pid).cmdline())[:80]})"
    return f"process {pid}"


def check_databases(settings: Settings) -> None:
    """Raise an error unless each database that is named by URL lets us in."""
    for name in ("prefect_database", "mlflow_database"):
        secret = getattr(settings.services, name)
        if secret is None or secret.get_secret_value().startswith("sqlite"):
            continue
        url = secret.get_secret_value()
        if not url.startswith("postgresql"):
            raise SettingsError(
                f"{masked(url)} is no database for {name.partition('_')[0]}",
                where=f"services.{name}",
                fix="postgresql+asyncpg://user:password@host/name for Prefect, postgresql+psycopg:// for MLflow",
            )
        _check_postgres(f"services.{name}", url)


def _check_postgres(where: str, url: str) -> None:
    import asyncio

    import asyncpg

    async def look() -> None:
        plain = "postgresql:" + url.partition(":")[2]
        connection = await asyncpg.connect(plain, timeout=5)
        await connection.close()

    try:
        asyncio.run(look())
    except (OSError, TimeoutError, asyncpg.PostgresError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(
            f"the database does not let us in: {reason}", where=f"{where}, {masked(url)}", fix="see that it is up"
        ) from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which goes with this process however it ends. Raises RunError if another has it."""
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"raymill is up already (process {_state(folder).get('pid', '?')})",
                where=str(folder),
                fix="raymill status shows it, raymill down stops it",
            ) from None
        yield


def is_up(folder: Path) -> bool:
    try:
        with (folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _state(folder: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads((folder / "state.json").read_text())
        return found
    return {}


@contextmanager
def log(folder: Path, console: Console) -> Iterator[Any]:
    """A function that writes a service's line to the console and, with its time, to up.log; the log of before is kept
    once it is large."""
    path = folder / "up.log"
    if path.exists() and path.stat().st_size > LOG_BYTES:
        os.replace(path, folder / "up.1.log")
    lock = threading.Lock()
    file: IO[str]
    with path.open("a", buffering=1) as file:

        def say(name: str, line: str) -> None:
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            with lock, suppress(ValueError):  # a line that comes when all is closed
                file.write(f"{now} {name:8} {line}\n")
                console.print(f"[{COLORS.get(name, 'dim')}]{name:8}[/] ", end="", highlight=False)
                console.print(line, markup=False, highlight=False, soft_wrap=True)

        yield say


def status(settings: Settings) -> dict[str, Any]:
    """What runs, whether it answers, and what is scheduled next."""
    folder = state_folder()
    if not is_up(folder):
        return {"up": False, "left": [p.pid for p in leftovers(folder)], "services": {}}
    state = _state(folder)
    services = {s.name: s for s in _planned(settings, state)}
    for name, about in state.get("services", {}).items():
        service = services.get(name)
        alive = psutil.pid_exists(about["pid"])
        about["problem"] = "" if alive else "it has ended"
        if alive and service and service.health:
            about["problem"] = service.problem(5.0)
    return {"up": True, **state}


def _planned(settings: Settings, state: dict[str, Any]) -> list[Service]:
    """The services as they would be started now, at the addresses at which they were."""
    from dataclasses import replace
    from urllib.parse import urlsplit

    found = []
    for service in plan(settings, (), None, state_folder()):
        url = state.get("services", {}).get(service.name, {}).get("url") or service.url
        path = urlsplit(service.health)._replace(scheme="", netloc="").geturl()
        found.append(replace(service, url=url, health=url + path if service.health else ""))
    return found


def down() -> int:
    """Stop what `up` started, also where that itself was killed; the number of processes that there were."""
    folder = state_folder()
    count = len(leftovers(folder))
    if is_up(folder) and (pid := _state(folder).get("pid")):
        count += 1
        with suppress(psutil.NoSuchProcess):
            os.kill(pid, signal.SIGTERM)
            psutil.wait_procs([psutil.Process(pid)], timeout=DOWN_TIMEOUT_S)
        if is_up(folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    end(leftovers(folder))
    return count


def use_what_is_up() -> None:
    """Point this process at the servers of a running `up`, where it was not told of others."""
    folder = state_folder()
    if not (folder / "state.json").exists() or not is_up(folder):
        return
    services = _state(folder).get("services", {})
    if url := services.get("prefect", {}).get("url"):
        os.environ.setdefault("PREFECT_API_URL", f"{url}/api")
    if url := services.get("mlflow", {}).get("url"):
        os.environ.setdefault("MLFLOW_TRACKING_URI", url)


__all__ = ["check_port", "clients", "deploy", "down", "is_up", "status", "up", "use_what_is_up"]
