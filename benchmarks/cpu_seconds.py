"""Measure the CPU seconds of a command and of every process below it, by kind of process.

A command of ours leaves daemons behind that belong to it (Ray's), so the watcher makes itself the one that orphans are
given to (`PR_SET_CHILD_SUBREAPER`, prctl(2)). Processes are sampled ten times a second, since the kernel keeps no sums
of those that nobody waited for. What a process used after its last sample is missing, and one that lived shorter.

    python -m benchmarks.cpu_seconds COMMAND ...
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

PR_SET_CHILD_SUBREAPER = 36
EVERY_S = 0.1
LEFT_S = 30.0  # what a command leaves behind is watched for so long
KINDS = (
    (r"^ray::\w+", r"\g<0>"),
    (r"ray/core/src/ray/raylet/raylet", "raylet"),
    (r"gcs_server", "GCS"),
    (r"dashboard/agent\.py|runtime_env/agent", "dashboard's agents"),
    (r"ray/dashboard", "dashboard"),
    (r"log_monitor|autoscaler|monitor\.py", "log monitor and autoscaler"),
    (r"default_worker", "ray worker, starting"),
    (r"prefect\.server|uvicorn|temporary_server", "Prefect's server"),
    (r"resource_tracker|multiprocessing", "multiprocessing"),
    (r"flows\.cli\.main|raymill", "the command"),
)


@dataclass
class Kind:
    """Processes of one kind: how many there were, and their CPU seconds, user and system."""

    processes: int
    cpu_s: float


def watch(command: Sequence[str], **options: Any) -> tuple[int, float, dict[str, Kind]]:
    """Run a command; its exit status, wall seconds until it ended, and CPU seconds by kind. `options` are Popen's."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    seen: dict[tuple[int, float], tuple[str, float]] = {}
    started = time.perf_counter()
    process = subprocess.Popen(command, **options)
    while process.poll() is None:
        _look(seen)
        time.sleep(EVERY_S)
    wall_s = time.perf_counter() - started
    until = time.monotonic() + LEFT_S
    while _look(seen) and time.monotonic() < until:
        time.sleep(EVERY_S)
    kinds: dict[str, Kind] = defaultdict(lambda: Kind(0, 0.0))
    for name, cpu_s in seen.values():
        kinds[name].processes += 1
        kinds[name].cpu_s = round(kinds[name].cpu_s + cpu_s, 2)
    return process.returncode, wall_s, dict(sorted(kinds.items(), key=lambda item: -item[1].cpu_s))


def _look(seen: dict[tuple[int, float], tuple[str, float]]) -> int:
    """Note what the processes below this one have used so far. Returns how many live."""
    live = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # gone
            if process.status() == psutil.STATUS_ZOMBIE:  # an orphan, dead: its seconds were noted
                continue
            live += 1
            used = process.cpu_times()
            if name := _kind(" ".join(process.cmdline())):
                seen[process.pid, process.create_time()] = name, used.user + used.system  # numbers are given again
    return live


def _kind(line: str) -> str:
    """Return the kind of a command line, "" for a process that has none yet."""
    for pattern, name in KINDS:
        if found := re.search(pattern, line):
            return found.expand(name)
    return line.split(" ")[0].rpartition("/")[2]


def main() -> int:
    status, wall_s, kinds = watch(sys.argv[1:])
    total = sum(kind.cpu_s for kind in kinds.values())
    processes = sum(kind.processes for kind in kinds.values())
    for name, kind in kinds.items():
        print(f"{kind.cpu_s:8.2f}  {kind.processes:4}  {name}", file=sys.stderr)
    print(f"{total:8.2f}  {processes:4}  all, in {wall_s:.1f} s", file=sys.stderr)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
