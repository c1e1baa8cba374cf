"""Processes of `raymill` commands: bounded, watched, and ended with all that they started.

To import everything is half of what a small run costs. So a drill imports it once, and its runs are forks of that
process (`fork`); where a run's variables are read at import, or its command is wrapped, it is a new process (`spawn`).
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

import psutil

from tasks.core.sections import PROJECT

COMMAND = "flows.cli.main"  # the module that `python -m` runs
POLL_S = 0.1
# What a run imports, the slowest first; others come with these.
IMPORTED = (
    *("flows.etl_train", "flows.cli.console", "flows.cli.launch", "flows.cli.snapshots", "flows.run.warm_up"),
    *("ray", "ray.data", "ray.train", "ray.tune", "modin.pandas", "mlflow", "mlflow.tracking", "mlflow.store"),
)


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status, None if it was still running at the limit; seconds; what it said."""

    status: int | None
    seconds: float
    said: str
    at: float  # time.time() of its end


class Process(Protocol):
    """What `run` needs of a process that it has started."""

    @property
    def pid(self) -> int: ...

    def status(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""

    def wait(self, seconds: float) -> None:
        """Wait until it has ended, at most this long."""


@dataclass
class Spawned:
    """A new process."""

    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def status(self) -> int | None:
        return self.process.poll()

    def wait(self, seconds: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)


@dataclass
class Forked:
    """A fork of this process."""

    process: multiprocessing.context.ForkProcess

    @property
    def pid(self) -> int:
        return self.process.pid or 0

    def status(self) -> int | None:
        return self.process.exitcode

    def wait(self, seconds: float) -> None:
        self.process.join(seconds)


def spawn(command: Sequence[str], said: Path, variables: Mapping[str, str], around: Sequence[str] = ()) -> Process:
    """Start `raymill` with these words in a new process and session. around: a command that runs it."""
    with said.open("wb") as output:  # not a pipe: a process that outlives a killed one would hold it open
        return Spawned(
            subprocess.Popen(
                [*around, sys.executable, "-m", COMMAND, *command],
                cwd=PROJECT,
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )


def fork(command: Sequence[str], said: Path, variables: Mapping[str, str]) -> Process:
    """Start `raymill` with these words in a fork of this process, which must have no threads."""
    process = multiprocessing.get_context("fork").Process(target=_become, args=(command, said, variables))
    process.start()
    return Forked(process)


def import_all() -> None:
    """Import what runs import, for the forks."""
    for name in IMPORTED:
        import_module(name)


def _become(command: Sequence[str], said: Path, variables: Mapping[str, str]) -> None:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(PROJECT)
    with open(os.devnull, "rb") as nothing, said.open("wb") as output:
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source.fileno(), target)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    os.environ.update(variables)
    sys.argv = ["raymill", *command]
    try:
        runpy.run_module(COMMAND, run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves these out


def run(
    start: Callable[[], Process], said: Path, limit_s: float, watch: Callable[[int], None] = lambda _: None
) -> Ended:
    """Start a process and wait until it ends or the limit; then end all that it left.

    said: the file that it writes to. `watch` is called with its id on the way.
    """
    began = time.monotonic()
    process = start()
    try:
        while process.status() is None and time.monotonic() < began + limit_s:
            watch(process.pid)
            process.wait(POLL_S)
    finally:
        status, seconds, at = process.status(), time.monotonic() - began, time.time()
        _end(process)
    return Ended(status, seconds, said.read_text(errors="replace"), at)


def _end(process: Process) -> None:
    """Kill a process and all of its descendants and session, whatever state they are in."""
    doomed: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        doomed = psutil.Process(process.pid).children(recursive=True)
    for child in doomed:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)
    psutil.wait_procs(doomed, timeout=10)
