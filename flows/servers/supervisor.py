"""Keep services running: start them, merge their output into one log, restart them when they die, stop them in order.

If this process dies, the kernel ends its children (`services.TETHER`), and the next `raymill up` or `down` finds their
descendants by a mark in the environment (`services.MARK`).
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from flows.servers.services import MARK, MARK_SERVICE, Service
from tasks.core.errors import RunError
from tasks.core.whole_files import write_whole

PROBE_EVERY_S, PROBE_TIMEOUT_S = 15.0, 10.0
RESTARTS, WINDOW_S = 5, 600.0  # a service that dies more often than this within so many seconds is given up
BACK_OFF_S = (0.5, 2.0, 5.0, 15.0, 30.0)  # before each restart
GRACE_S = 5.0  # for flow runs to report their end, then for services
LOG_BYTES = 20 << 20


@dataclass
class Child:
    """A service and its current process."""

    service: Service
    process: subprocess.Popen[str]
    since: float
    deaths: list[float] = field(default_factory=list)
    problem: str = ""


class Supervisor:
    """The services of one `raymill up`. `say(name, line)` gets every line of their output."""

    def __init__(self, folder: Path, say: Callable[[str, str], None]) -> None:
        self.folder = folder
        self.say = say
        self.children: dict[str, Child] = {}
        self.events: queue.Queue[tuple[str, str]] = queue.Queue()

    def start(self, service: Service) -> None:
        process = subprocess.Popen(
            service.command,
            env={**os.environ, **service.env, MARK: str(self.folder), MARK_SERVICE: service.name},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C in the terminal reaches only us, and we stop services in order
        )
        before = self.children.get(service.name)
        self.children[service.name] = Child(service, process, time.time(), before.deaths if before else [])
        for act in (self._pass_on, self._await):
            threading.Thread(target=act, args=(service.name, process), daemon=True).start()
        self.save()

    def _pass_on(self, name: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.say(name, line.rstrip("\n"))

    def _await(self, name: str, process: subprocess.Popen[str]) -> None:
        # Not at the end of its output: its own children hold that open.
        process.wait()
        self.events.put(("ended", name))

    def wait_until_healthy(self, names: Sequence[str], timeout_s: float) -> None:
        """Wait until each service answers. Raises RunError, with the reason, if one ends or takes too long."""
        deadline = time.monotonic() + timeout_s
        for name in names:
            child = self.children[name]
            while problem := child.service.problem(PROBE_TIMEOUT_S):
                self.stop_if_told()
                code = child.process.poll()
                if code is not None or time.monotonic() > deadline:
                    what = f"ended with status {code}" if code is not None else f"did not get ready: {problem}"
                    raise RunError(f"{name} {what}", where=child.service.url, fix=f"see {self.folder / 'up.log'}")
                time.sleep(0.1)

    def stop_if_told(self) -> None:
        """Raise KeyboardInterrupt if a signal has asked to stop."""
        with suppress(queue.Empty):
            event = self.events.get_nowait()
            if event[0] == "stop":
                raise KeyboardInterrupt
            self.events.put(event)

    def watch(self) -> None:
        """Restart services that die until asked to stop. Raises RunError if one dies again and again."""
        while True:
            try:
                kind, name = self.events.get(timeout=PROBE_EVERY_S)
            except queue.Empty:
                self._probe()
                continue
            if kind == "stop":
                return
            if kind == "start":
                # Not in the timer's thread: to the kernel, a process's parent is the thread that started it.
                self.start(self.children[name].service)
            else:
                self._revive(self.children[name])

    def _revive(self, child: Child) -> None:
        name, now = child.service.name, time.monotonic()
        child.deaths = [t for t in child.deaths if now - t < WINDOW_S] + [now]
        what = f"{name} ended with status {child.process.returncode}"
        if len(child.deaths) > RESTARTS:
            raise RunError(
                f"{what}, for the {len(child.deaths)}th time in {WINDOW_S / 60:.0f} minutes",
                where=child.service.url or name,
                fix=f"see {self.folder / 'up.log'}",
            )
        delay = BACK_OFF_S[len(child.deaths) - 1]
        self.say("up", f"{what}; starting it again in {delay:g} s")
        if child.service.health:
            # The rest of a dead server holds its port. A dead worker's flow runs, though, may go on to their end.
            end(leftovers(self.folder, name))
        timer = threading.Timer(delay, self.events.put, [("start", name)])
        timer.daemon = True
        timer.start()

    def _probe(self) -> None:
        """Report once when a running service stops answering, and once when it answers again."""
        for child in list(self.children.values()):
            if not child.service.health or child.process.poll() is not None:
                continue
            problem = child.service.problem(PROBE_TIMEOUT_S)
            if bool(problem) != bool(child.problem):
                self.say(
                    "up", f"{child.service.name} " + (f"does not answer: {problem}" if problem else "answers again")
                )
            child.problem = problem
        self.save()

    def stop(self) -> None:
        """End all processes, the worker and its flow runs before the servers that they report to."""
        order = sorted(self.children.values(), key=lambda c: c.service.health != "")
        worker = [c for c in order if not c.service.health]
        # The flow runs first: each reports its end to Prefect and MLflow.
        end([p for c in worker for p in descendants_of(c.process.pid) if is_flow_run(p)], grace_s=GRACE_S)
        for group in (worker, [c for c in order if c.service.health]):
            processes = [p for c in group for p in [*descendants_of(c.process.pid), *process(c.process.pid)]]
            end(processes, grace_s=GRACE_S / 2)
        end(leftovers(self.folder))
        (self.folder / "state.json").unlink(missing_ok=True)

    def save(self) -> None:
        """Write the state file for `raymill status`, atomically."""
        services = {
            name: {
                "pid": child.process.pid,
                "url": child.service.url,
                "health": child.service.health,
                "since": child.since,
                "restarts": len(child.deaths),
                "problem": child.problem,
            }
            for name, child in self.children.items()
        }
        write_whole(self.folder / "state.json", json.dumps({"pid": os.getpid(), "services": services}, indent=1))

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Turn SIGINT, SIGTERM and SIGHUP into requests to stop while the block runs; a second one changes nothing."""

        def ask(number: int, _frame: Any) -> None:
            self.events.put(("stop", signal.Signals(number).name))

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, ask) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def process(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [psutil.Process(pid)]
    return []


def descendants_of(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def is_flow_run(candidate: psutil.Process) -> bool:
    """Tell whether this is the main process of a flow run, not one of its children."""
    with suppress(psutil.Error):
        command = candidate.cmdline()
        return any(part in command for part in FLOW_RUN)
    return False


# Modules that run flows: ours, and Prefect's own for a deployment without our command.
FLOW_RUN = ("flows.servers.engine", "prefect.engine", "prefect.flow_engine")


def leftovers(folder: Path, service: str | None = None) -> list[psutil.Process]:
    """Find the processes started by any `up` with this state folder, whatever their parent is now, except this one."""
    marks = {MARK: str(folder)} if service is None else {MARK: str(folder), MARK_SERVICE: service}
    left = []
    for candidate in psutil.process_iter():
        with suppress(psutil.Error):
            if candidate.pid != os.getpid() and marks.items() <= candidate.environ().items():
                left.append(candidate)
    return left


def end(processes: Sequence[psutil.Process], grace_s: float = 1.0) -> None:
    """Terminate these processes; kill those that are alive after the grace period."""
    for one in processes:
        with suppress(psutil.Error):
            one.terminate()
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for one in alive:
        with suppress(psutil.Error):
            one.kill()
    psutil.wait_procs(alive, timeout=1.0)
