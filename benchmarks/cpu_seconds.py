"""Measure the CPU seconds of a command and of every process below it, by kind of process.

A command of ours leaves daemons behind that belong to it (Ray's), so the watcher makes itself the one that orphans are
given to (`PR_SET_CHILD_SUBREAPER`, prctl(2)): nothing that the command started gets away uncounted. Processes are seen
ten times a second; a shorter one counts in its parent's row.

    python -m benchmarks.cpu_seconds COMMAND ...
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
TICKS = os.sysconf("SC_CLK_TCK")
EVERY_S = 0.1
LEFT_S = 30.0  # what a command leaves behind is waited for this long, then told
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
    seen: dict[tuple[int, int], tuple[str, float]] = {}
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


def _look(seen: dict[tuple[int, int], tuple[str, float]]) -> int:
    """Note what the processes below this one have used. How many live."""
    parents, found = {}, {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:  # gone
            continue
        parents[int(entry)] = int(fields[1])
        found[int(entry)] = fields
    live = 0
    for pid, fields in found.items():
        if not _below(pid, parents):
            continue
        if fields[0] == "Z":  # an orphan, dead: its seconds were noted
            continue
        live += 1
        name = _kind(pid)
        key = (pid, int(fields[19]))  # a number is given again, with another start
        if name is not None:
            seen[key] = (name, (int(fields[11]) + int(fields[12])) / TICKS)
    return live


def _below(pid: int, parents: dict[int, int]) -> bool:
    while pid := parents.get(pid, 0):
        if pid == os.getpid():
            return True
    return False


def _kind(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            line = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
    for pattern, name in KINDS:
        if found := re.search(pattern, line):
            return found.expand(name)[:60]
    return line.split(" ")[0].rpartition("/")[2][:40] or None


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
