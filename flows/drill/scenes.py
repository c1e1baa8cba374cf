"""What surrounds a run in the drill beside the fault point: servers that die, small disks, few file handles.

A scene is a context: it prepares a place, yields a `Scene`, and cleans up.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from flows.drill import postgres
from flows.drill.place import Place
from flows.drill.servers import MlflowServer, PrefectServer, S3Server, Server

DAY_S = 86_400
FEW_HANDLES = 48  # a quiet Python process that has imported Prefect and MLflow has some thirty open


@dataclass
class Scene:
    """Settings and variables for both runs, words before the first one's command, and what happens when.

    strike: called once, with the id of the stopped process, when that is at the fault point; it is then continued, if
    `goes_on`. heal: called between the two runs. always: the scene alone is the fault; none is armed.
    """

    settings: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    around: list[str] = field(default_factory=list)
    strike: Callable[[int, psutil.Process], None] | None = None
    heal: Callable[[], None] = lambda: None
    always: bool = False
    goes_on: bool = True


Surroundings = Callable[[Place], AbstractContextManager[Scene]]


@contextmanager
def nothing(_place: Place) -> Iterator[Scene]:
    """The fault point alone."""
    yield Scene()


def killing(*names: str) -> Surroundings:
    """Kill the run's processes whose names begin so, such as `raylet`."""

    def strike(_stopped: int, run: psutil.Process) -> None:
        for child in run.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if child.name().startswith(names) and child.status() != psutil.STATUS_ZOMBIE:
                    child.kill()

    @contextmanager
    def scene(_place: Place) -> Iterator[Scene]:
        yield Scene(strike=strike)

    return scene


@contextmanager
def interrupted(_place: Place) -> Iterator[Scene]:
    """Interrupt the run, as by Ctrl-C, while a process of its works, which would do so for ever."""
    yield Scene(strike=lambda _stopped, run: run.send_signal(signal.SIGINT), goes_on=False)


def mlflow(number: signal.Signals) -> Surroundings:
    """Record in an MLflow server of the place's own, which gets this signal: SIGKILL, or SIGSTOP to be silent."""

    @contextmanager
    def scene(place: Place) -> Iterator[Scene]:
        server = MlflowServer(place.root)
        with _serving(server):
            heal = _healer(server, number)
            yield Scene([f"tracking.uri={server.uri}"], strike=lambda *_: server.signal(number), heal=heal)

    return scene


def prefect(number: signal.Signals) -> Surroundings:
    """Run under a Prefect server of the place's own, which gets this signal."""

    @contextmanager
    def scene(place: Place) -> Iterator[Scene]:
        server = PrefectServer(place.root)
        with _serving(server):
            variables = {"PREFECT_API_URL": server.api}
            yield Scene(variables=variables, strike=lambda *_: server.signal(number), heal=_healer(server, number))

    return scene


def bucket(number: signal.Signals) -> Surroundings:
    """Keep the snapshots in a bucket, whose server gets this signal. Killed, it has also lost all it held."""

    @contextmanager
    def scene(place: Place) -> Iterator[Scene]:
        server = S3Server(place.root)
        with _serving(server):
            settings = [f"storage.remote={server.url}"]
            heal = _healer(server, number)
            yield Scene(settings, S3Server.CREDENTIALS, strike=lambda *_: server.signal(number), heal=heal)

    return scene


@contextmanager
def stored_in_bucket(place: Place) -> Iterator[Scene]:
    """Keep the snapshots in a bucket."""
    server = S3Server(place.root)
    with _serving(server):
        yield Scene([f"storage.remote={server.url}"], S3Server.CREDENTIALS)


@contextmanager
def postgres_dies(_place: Place) -> Iterator[Scene]:
    """Keep the search's trials in a PostgreSQL server, which ends without notice and comes back."""
    where = postgres.programs()
    assert where is not None
    with postgres.postgres(where) as server:
        server.create("trials")
        settings = [f"tune.storage={server.url('postgresql', 'trials')}"]
        yield Scene(settings, strike=lambda *_: server.stop(), heal=server.start)


@contextmanager
def _serving(server: Server) -> Iterator[None]:
    try:
        server.start()
        yield
    finally:
        server.kill()


def _healer(server: Server, number: signal.Signals) -> Callable[[], None]:
    def heal() -> None:
        if number == signal.SIGSTOP:
            server.signal(signal.SIGCONT)
        else:
            server.kill()
            server.start()

    return heal


@contextmanager
def few_handles(_place: Place) -> Iterator[Scene]:
    """Allow the first run few open files."""
    limit = f"resource.setrlimit(resource.RLIMIT_NOFILE, ({FEW_HANDLES}, {FEW_HANDLES}))"
    run = f"import os, resource, sys; {limit}; os.execv(sys.argv[1], sys.argv[1:])"
    yield Scene(around=[sys.executable, "-c", run], always=True)


@contextmanager
def small_disk(place: Place) -> Iterator[Scene]:
    """Put the storage root on a file system with room for half of the stage's output."""
    with mounted(place.data, room=place.output_bytes // 2) as remount:
        yield Scene(heal=lambda: remount("size=1g"), always=True)


@contextmanager
def mounted(folder: Path, room: int) -> Iterator[Callable[[str], None]]:
    """Mount a file system over a folder, with its files and so many free bytes; yield a function that remounts it."""
    aside = folder.with_name(f"{folder.name}-aside")
    folder.rename(aside)
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", "size=1g", "tmpfs", str(folder))
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        _mount("-o", f"remount,size={shutil.disk_usage(folder).used + room}", str(folder))
        yield lambda options: _mount("-o", f"remount,{options}", str(folder))
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True, timeout=60)


@contextmanager
def read_only(place: Place) -> Iterator[Scene]:
    """Forbid the first run to write below the storage root: by its permissions, or for root by a mount."""
    if os.geteuid():
        modes = {path: path.stat().st_mode for path in (place.data, *place.data.rglob("*")) if path.is_dir()}

        def heal() -> None:
            for path, mode in modes.items():
                path.chmod(mode)

        for path in modes:
            path.chmod(0o555)
        try:
            yield Scene(heal=heal, always=True)
        finally:
            heal()
        return
    with mounted(place.data, room=1 << 20) as remount:
        remount("ro")
        yield Scene(heal=lambda: remount("rw,size=1g"), always=True)


@contextmanager
def clock_set_back(place: Place) -> Iterator[Scene]:
    """Let all that the killed run left come from the future, as when a wrong clock is set right between two runs."""

    def heal() -> None:
        tomorrow = time.time() + DAY_S
        for path in place.data.rglob("*"):
            if path.stat().st_nlink == 1 or path.is_dir():  # not the reference's files
                os.utime(path, (tomorrow, tomorrow))
        for record in (place.data / "runs").glob("*.json"):
            record.rename(record.with_name(f"{int(record.name[:4]) + 1}{record.name[4:]}"))  # YYYYmmdd-…

    yield Scene(heal=heal)


def no_mount() -> str:
    """Return why nothing can be mounted here; "" if it can."""
    if os.geteuid():
        return "to mount a small file system takes root"
    folder = Path("/tmp") / f"raymill-mount-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    try:
        _mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder))
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)
    except (OSError, subprocess.SubprocessError):
        return "mounting is not permitted here"
    finally:
        folder.rmdir()
    return ""


def no_read_only() -> str:
    return no_mount() if os.geteuid() == 0 else ""
