"""`raymill up`, `status` and `down`: the servers, the worker, the deployments and their schedules."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import psutil
from rich.console import Console

from flows.servers.deadline_watch import watching
from flows.servers.deploy import POOL_READY
from flows.servers.input_watch import watching_input
from flows.servers.services import Service, answers, basic, plan
from flows.servers.supervisor import LOG_BYTES, Supervisor, end, leftovers
from flows.servers.up_state import is_up, locked, state, state_folder
from tasks.core.errors import RunError, SettingsError
from tasks.core.secrets import masked
from tasks.core.sections import PROJECT
from tasks.settings import Settings

READY_TIMEOUT_S = 120.0  # the first start migrates both databases
DOWN_TIMEOUT_S = 10.0
COLORS = {"prefect": "cyan", "mlflow": "magenta", "worker": "green", "up": "bold"}


def up(settings: Settings, console: Console, overrides: Sequence[str], profile: str | None) -> None:
    """Start the services, keep them running, and stop them when asked to."""
    folder = state_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        began = time.perf_counter()
        services = plan(settings, overrides, profile, folder)
        for left in leftovers(folder):
            console.print(f"ending a process that an earlier raymill up left: {left.pid}", highlight=False)
        end(leftovers(folder))
        check_databases(settings)
        check_server(services, settings)
        for service in services:
            check_port(service, settings)
        with log(folder, console) as say:
            supervisor = Supervisor(folder, say)
            with supervisor.signals():
                try:
                    _start(supervisor, services, settings)
                    console.print(_ready(services, settings, time.perf_counter() - began), highlight=False)
                    api = services[-1].env["PREFECT_API_URL"]
                    with watching(settings, api, folder, say), watching_input(settings, api, folder, say):
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
    with _deploying(worker) as (process, lines):  # it imports while the servers start
        supervisor.wait_until_healthy([s.name for s in servers if s.name == "prefect"], READY_TIMEOUT_S)
        _deploy(process, lines, worker, supervisor)
    supervisor.wait_until_healthy([s.name for s in servers], READY_TIMEOUT_S)


Lines = queue.Queue[str | None]


@contextmanager
def _deploying(worker: Service) -> Iterator[tuple[subprocess.Popen[str], Lines]]:
    """Start `flows.servers.deploy` with the worker's variables; give its process and its lines, None after the last.

    It is ended with the block.
    """
    process = subprocess.Popen(
        Service("deploy", ["-m", "flows.servers.deploy"]).command,
        env={**os.environ, **worker.env},
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    lines: Lines = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line.strip("│ \n"))
        lines.put(None)

    threading.Thread(target=read, name="deploy", daemon=True).start()
    try:
        yield process, lines
    finally:
        process.kill()
        process.wait()


def _deploy(process: subprocess.Popen[str], lines: Lines, worker: Service, supervisor: Supervisor) -> None:
    """Follow the deploy process to its end; start the worker once the work pool exists. Raises RunError on failure."""
    deadline, output, where = time.monotonic() + READY_TIMEOUT_S, [], str(PROJECT / "prefect.yaml")
    while True:
        supervisor.stop_if_told()
        if time.monotonic() > deadline:
            raise RunError(f"prefect.yaml was not applied within {READY_TIMEOUT_S:.0f} s", where=where)
        try:
            line = lines.get(timeout=0.2)
        except queue.Empty:
            continue
        if line is None:
            break
        output.append(line)
        if line == POOL_READY:
            supervisor.start(worker)
        elif "successfully" in line:
            supervisor.say("deploy", line)
    if process.wait():
        for line in output:
            supervisor.say("deploy", line)
        raise RunError("prefect.yaml could not be applied", where=where, fix="see the log")


def _ready(services: Sequence[Service], settings: Settings, seconds: float) -> str:
    urls = {s.name: s.url for s in services if s.url}
    env = services[-1].env
    api, tracking = env["PREFECT_API_URL"], env["RAYMILL__TRACKING__URI"]
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


DEFAULT_API = "http://127.0.0.1:4200/api"  # Prefect's own command reads it from pyproject.toml


def check_server(services: Sequence[Service], settings: Settings) -> None:
    """Raise RunError if an external Prefect server (PREFECT_API_URL) does not answer."""
    api = services[-1].env["PREFECT_API_URL"]
    if any(s.name == "prefect" for s in services):
        return
    if problem := answers(f"{api}/health", basic(settings.services), timeout_s=10):
        raise RunError(
            f"Prefect's server does not answer: {problem}",
            where=f"PREFECT_API_URL={api}",
            fix="start it; or unset PREFECT_API_URL, and raymill up starts one",
        )


def check_port(service: Service, settings: Settings) -> None:
    """Raise RunError, naming the process, if the service's port is in use."""
    if not service.url:
        return
    port = int(service.url.rpartition(":")[2])
    with suppress(psutil.AccessDenied):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                raise RunError(
                    f"port {port} is in use by {_who(connection.pid)}; {service.name} needs it",
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
    """Raise an error unless each PostgreSQL database of the settings can be connected to."""
    for name in ("prefect_database", "mlflow_database"):
        secret = getattr(settings.services, name)
        if secret is None or secret.get_secret_value().startswith("sqlite"):
            continue
        url = secret.get_secret_value()
        if not url.startswith("postgresql"):
            raise SettingsError(
                f"{url} is no URL of a database for {name.partition('_')[0]}",
                where=f"services.{name}",
                fix="postgresql+asyncpg://user:password@host/name for Prefect, postgresql+psycopg:// for MLflow",
            )
        if name == "mlflow_database" and find_spec("psycopg") is None:
            raise SettingsError(
                "MLflow needs the package psycopg for PostgreSQL",
                where="services.mlflow_database",
                fix='pip install --constraint constraints.txt --editable ".[postgres]"',
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
            f"the database does not let us in: {reason}", where=f"{where}, {url}", fix="see that it is up"
        ) from None


@contextmanager
def log(folder: Path, console: Console) -> Iterator[Any]:
    """Give a function that writes a service's line to the console and, with its time, to up.log.

    A large log is renamed to up.1.log first.
    """
    path = folder / "up.log"
    if path.exists() and path.stat().st_size > LOG_BYTES:
        os.replace(path, folder / "up.1.log")
    lock = threading.Lock()
    file: IO[str]
    with path.open("a", buffering=1) as file:

        def say(name: str, line: str) -> None:
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            with lock, suppress(ValueError):  # a line that comes after the file is closed
                file.write(f"{now} {name:8} {line}\n")
                console.print(f"[{COLORS.get(name, 'dim')}]{name:8}[/] ", end="", highlight=False)
                console.print(line, markup=False, highlight=False, soft_wrap=True)

        yield say


def status(settings: Settings) -> dict[str, Any]:
    """Return which services run and whether they answer; "well" if all do."""
    folder = state_folder()
    if not is_up(folder):
        return {"up": False, "well": False, "services": {}, "left": [p.pid for p in leftovers(folder)]}
    saved = state(folder)
    authorization = basic(settings.services)
    for about in saved.get("services", {}).values():
        about["problem"] = "" if psutil.pid_exists(about["pid"]) else "it has ended"
        if not about["problem"] and about["health"]:
            about["problem"] = answers(about["health"], authorization, 5.0)
    well = bool(saved.get("services")) and not any(about["problem"] for about in saved["services"].values())
    return {"up": True, "well": well, **saved}


def down() -> int:
    """Stop everything that `up` started, even if `up` was killed; return the number of processes."""
    folder = state_folder()
    count = len(leftovers(folder))
    if is_up(folder) and (pid := state(folder).get("pid")):
        count += 1
        with suppress(psutil.NoSuchProcess):
            os.kill(pid, signal.SIGTERM)
            psutil.wait_procs([psutil.Process(pid)], timeout=DOWN_TIMEOUT_S)
        if is_up(folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    end(leftovers(folder))
    return count
