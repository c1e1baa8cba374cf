"""What the sides of several cases share: a Ray session, stages without validation, processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.harness import Setup, Timed
from tasks.core.errors import RunError
from tasks.core.sections import PROJECT
from tasks.core.stage import StageRun, run_stage
from tasks.core.storage.store import SnapshotStore
from tasks.engines import cluster
from tasks.engines.quiet import QUIET
from tasks.settings import Settings, load_settings


@dataclass(kw_only=True)
class StageJob:
    """Where the sides of a case write. `storage` is the folder of our latest run."""

    workers: int
    scratch: Path
    settings: Settings
    numbers: count[int] = field(default_factory=count)
    storage: Path | None = None

    def empty_store(self) -> SnapshotStore:
        """Return a new store, and remove that of our latest run."""
        if self.storage is not None:
            shutil.rmtree(self.storage)
        self.storage = self.scratch / f"ours-{next(self.numbers)}"
        return SnapshotStore(self.storage)

    def run_peer(self, module: str, name: str, input: Path) -> tuple[Path, float]:
        """Run a peer that takes NAME INPUT OUT; returns its output folder and the seconds that it took."""
        out = self.scratch / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        took = in_own_process(module, [name, str(input), str(out)], out, threads=self.workers)
        return out, float(took["wall_s"])


def start_ray(setup: Setup) -> Settings:
    """Start Ray, until the case is done, with a logical CPU per worker."""
    settings = load_settings(overrides=[f"ray.workers={setup.workers}", f"ray.logical_cpus={setup.workers}"])
    cluster.start(settings.ray)
    setup.cleanup.callback(cluster.stop)
    return settings


def run_unvalidated(stage: Any, inputs: Sequence[Any], config: Any, store: SnapshotStore) -> StageRun:
    """Run a stage without validation, which no peer does."""
    return run_stage(stage, inputs, config, store, validate=lambda _stage, _out: {})


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
    # Without the variables that our own Ray session has set.
    return {**QUIET, **{name: value for name, value in os.environ.items() if name not in cluster.WORKER_ENV}}


def median_run(runs: Sequence[Timed]) -> Timed:
    """Return the run whose wall time is the (lower) median: its parts add up, as medians of parts would not."""
    return sorted(runs, key=lambda run: run.wall_s)[(len(runs) - 1) // 2]
