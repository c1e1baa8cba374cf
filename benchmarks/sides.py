"""What cases that run our stages share: a Ray session, an empty store for each run, no validation."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.harness import Setup
from benchmarks.processes import in_own_process
from tasks.core.stage import StageRun, run_stage
from tasks.core.storage.store import SnapshotStore
from tasks.engines import cluster
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


# Ray's workers give way to all other processes (nice 15), so beside others they lose to peers in this process.
LIKE_PEERS = {"RAY_worker_niceness": "0"}


def set_variables(setup: Setup, variables: Mapping[str, str]) -> None:
    """Set environment variables for the processes that Ray will start, until the case is done."""
    os.environ.update(variables)
    for name in variables:
        setup.cleanup.callback(os.environ.pop, name)


def start_ray(setup: Setup, *more: str) -> Settings:
    """Start Ray, until the case is done, with a logical CPU per worker. more: other settings, as `--set` takes them."""
    settings = load_settings(overrides=[f"ray.workers={setup.workers}", f"ray.logical_cpus={setup.workers}", *more])
    cluster.start(settings.ray)
    setup.cleanup.callback(cluster.stop)
    return settings


def run_unvalidated(stage: Any, inputs: Sequence[Any], config: Any, store: SnapshotStore) -> StageRun:
    """Run a stage without validation, which no peer does."""
    return run_stage(stage, inputs, config, store, validate=lambda _stage, _out: {})
