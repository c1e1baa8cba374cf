"""Run sides in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.core.errors import RunError
from tasks.core.sections import PROJECT
from tasks.engines.quiet import QUIET


def in_own_process(module: str, arguments: Sequence[str], folder: Path, *, threads: int) -> dict[str, Any]:
    """Run a peer's module and return the JSON object that it wrote."""
    return run_command(["-m", module, *arguments, "--threads", str(threads)], folder)


def run_command(arguments: Sequence[str], folder: Path, more: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a Python command that writes a JSON object. Raises RunError with the end of its output where it fails."""
    written = folder / "summary.json"
    command = [sys.executable, *arguments, "--json", str(written)]
    environment = {**_environment(), **(more or {})}
    # To a file: a pipe that daemons inherit would stay open after the command is done.
    with (folder / "output.log").open("w+") as output:
        done = subprocess.run(command, cwd=PROJECT, env=environment, stdout=output, stderr=output, check=False)
        output.seek(0)
        said = output.read()
    if done.returncode != 0 or not written.exists():
        last = "\n".join(said.splitlines()[-15:])
        raise RunError(f"exit status {done.returncode}:\n{last}", where=" ".join(arguments[:3]), fix="run it alone")
    loaded: dict[str, Any] = json.loads(written.read_text())
    return loaded


def _environment() -> dict[str, str]:
    from tasks.engines.cluster import WORKER_ENV

    # Without the variables that our own Ray session has set.
    return {**QUIET, **{name: value for name, value in os.environ.items() if name not in WORKER_ENV}}
