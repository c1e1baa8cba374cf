"""Keeps services running: starts them, prefixes their lines into one log, restarts what dies, stops all of it.

Whatever happens to this process, its children are told to end by the kernel (`services.TETHER`), and what they in turn
had started is found by its environment (`services.MARK`) by the next `raymill up` or `down`.
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
RESTARTS, WINDOW_S = 5, 600.0  # a service that dies so often within so many seconds is given up
BACK_OFF_S = (0.5, 2.0, 5.0, 15.0, 30.0)  # before each of them
GRACE_S = 5.0  # for flow runs to say that they end, then for services
LOG_BYTES = 20 << 20


@dataclass
class Child:
    """A service and the process that it is at the moment."""

    service: Service
    process: subprocess.Popen[str]
    since: float
    deaths: list[float] = field(default_factory=list)
    problem: str = ""


class Supervisor:
    """The services of one `raymill up`. `say(name, line)` gets every line that any of them writes."""

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
            start_new_session=True,  # Ctrl-C in the terminal is for us, who stop things in order
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
        # Not when its output ends: what it has started holds that open.
        process.wait()
        self.events.put(("ended", name))

    def wait_until_healthy(self, names: Sequence[str], timeout_s: float) -> None:
        """Return when each answers. Raises RunError, with the reason, for one that ends or does not in time."""
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
        """Raise KeyboardInterrupt where a signal has asked for the end."""
        with suppress(queue.Empty):
            event = self.events.get_nowait()
            if event[0] == "stop":
                raise KeyboardInterrupt
            self.events.put(event)

    def watch(self) -> None:
        """Restart what dies until told to stop. Raises RunError when something dies again and again."""
        while True:
            try:
                kind, name = self.events.get(timeout=PROBE_EVERY_S)
            except queue.Empty:
                self._probe()
                continue
            if kind == "stop":
                return
            if kind == "start":
                # Not in the timer's thread: for the kernel the parent of a process is the thread that started it.
                self.start(self.children[name].service)
            else:
                self._revive(self.children[name])

    def _revive(self, child: Child) -> None:
        name, now = child.service.name, time.monotonic()
        child.deaths = [t for t in child.deaths if now - t < WINDOW_S] + [now]
        told = f"{name} ended with status {child.process.returncode}"
        if len(child.deaths) > RESTARTS:
            raise RunError(
                f"{told}, for the {len(child.deaths)}th time in {WINDOW_S / 60:.0f} minutes",
                where=child.service.url or name,
                fix=f"see {self.folder / 'up.log'}",
            )
        delay = BACK_OFF_S[len(child.deaths) - 1]
        self.say("up", f"{told}; starting it again in {delay:g} s")
        if child.service.health:
            # What is left of a server holds its port. A flow run of a worker that died goes on to its end.
            end(leftovers(self.folder, name))
        timer = threading.Timer(delay, self.events.put, [("start", name)])
        timer.daemon = True
        timer.start()

    def _probe(self) -> None:
        """Say once when a service that runs stops answering, and once when it answers again."""
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
        """End everything, the worker and its flow runs before the servers that they report to."""
        order = sorted(self.children.values(), key=lambda c: c.service.health != "")
        worker = [c for c in order if not c.service.health]
        # The flow runs first: each tells Prefect and MLflow that it ends.
        end([p for c in worker for p in descendants_of(c.process.pid) if is_flow_run(p)], grace_s=GRACE_S)
        for group in (worker, [c for c in order if c.service.health]):
            processes = [p for c in group for p in [*descendants_of(c.process.pid), *process(c.process.pid)]]
            end(processes, grace_s=GRACE_S / 2)
        end(leftovers(self.folder))
        (self.folder / "state.json").unlink(missing_ok=True)

    def save(self) -> None:
        """Write what `status` shows. Replaced whole, never half written."""
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
        """While the block runs, SIGINT and SIGTERM ask for the end; a second one does not hurry it."""

        def ask(number: int, _frame: Any) -> None:
            self.events.put(("stop", signal.Signals(number).name))

        wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, ask) for number in wanted}
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
    """Whether this is the process of a flow run, and not one that it started."""
    with suppress(psutil.Error):
        command = candidate.cmdline()
        return any(part in command for part in FLOW_RUN)
    return False


# Modules that run flows: ours, and those that Prefect starts for a deployment without our command.
FLOW_RUN = ("flows.servers.engine", "prefect.engine", "prefect.flow_engine")


def leftovers(folder: Path, service: str | None = None) -> list[psutil.Process]:
    """Processes that an `up` with this state folder has started, whoever their parent is now; never this one."""
    wanted = {MARK: str(folder)} if service is None else {MARK: str(folder), MARK_SERVICE: service}
    found = []
    for candidate in psutil.process_iter():
        with suppress(psutil.Error):
            if candidate.pid != os.getpid() and wanted.items() <= candidate.environ().items():
                found.append(candidate)
    return found


def end(processes: Sequence[psutil.Process], grace_s: float = 1.0) -> None:
    """Ask these processes to end; after the grace period they have no choice."""
    for one in processes:
        with suppress(psutil.Error):
            one.terminate()
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for one in alive:
        with suppress(psutil.Error):
            one.kill()
    psutil.wait_procs(alive, timeout=1.0)
