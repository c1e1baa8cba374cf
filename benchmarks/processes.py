"""Run sides in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.cpu_seconds import Kind, watch
from tasks.core.errors import RunError
from tasks.core.sections import PROJECT
from tasks.engines.quiet import QUIET


def in_own_process(module: str, arguments: Sequence[str], folder: Path, *, threads: int) -> dict[str, Any]:
    """Run a peer's module and return the JSON object that it wrote."""
    return run_command(["-m", module, *arguments, "--threads", str(threads)], folder)


def run_command(
    arguments: Sequence[str], folder: Path, more: Mapping[str, str] | None = None, *, watched: bool = False
) -> dict[str, Any]:
    """Run a Python command that writes a JSON object. Raises RunError with the end of its output where it fails.

    watched: add "cpu", the CPU seconds of all its processes; looking at them takes a fiftieth of a core.
    """
    written = folder / "summary.json"
    command = [sys.executable, *arguments, "--json", str(written)]
    environment = {**_environment(), **(more or {})}
    # To a file: a pipe that daemons inherit would stay open after the command is done.
    with (folder / "output.log").open("w+") as output:
        options: dict[str, Any] = {"cwd": PROJECT, "env": environment, "stdout": output, "stderr": output}
        kinds: dict[str, Kind] = {}
        if watched:
            status, _, kinds = watch(command, **options)
        else:
            status = subprocess.run(command, check=False, **options).returncode
        output.seek(0)
        printed = output.read()
    if status != 0 or not written.exists():
        last = "\n".join(printed.splitlines()[-15:])
        raise RunError(f"exit status {status}:\n{last}", where=" ".join(arguments[:3]), fix="run it alone")
    loaded: dict[str, Any] = json.loads(written.read_text())
    return {**loaded, "cpu": in_all(kinds)} if watched else loaded


def in_all(kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """Return seconds and processes of all kinds together, and of each."""
    return {
        "seconds": round(sum(kind.cpu_s for kind in kinds.values()), 2),
        "processes": sum(kind.processes for kind in kinds.values()),
        "by_kind": {name: asdict(kind) for name, kind in kinds.items()},
    }


def _environment() -> dict[str, str]:
    from tasks.engines.cluster import WORKER_ENV

    # Without the variables that our own Ray session has set.
    return {**QUIET, **{name: value for name, value in os.environ.items() if name not in WORKER_ENV}}
