"""A whole run on a few hundred reviews, and places in which it is started, killed or gone on with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.drill import processes
from tasks.core.storage.store import SnapshotStore, damaged_files
from tasks.settings import load_settings
from tasks.stages import declared_stages
from tests.support.command import Done, raymill

ROWS = 800
LIMIT_S = 400
SMALL = {
    "ray.object_store_mb": 256,
    "tune.trials": 3,
    "tune.concurrent": 1,  # trials end in the order they began in: the search too can be compared
    "tune.max_rounds": 20,
    "tune.min_rounds": 10,
    "train.rounds": 10,
    "features.text_score.dimensions": 4096,
    "features.text_score.borders": [0.3, 0.6],
    "registry.gates.min_gain_over_linear": "null",  # so few trees need not beat it
}


@dataclass(frozen=True)
class Place:
    """A folder for all that runs write, and reviews to read."""

    root: Path
    reviews: Path

    @property
    def store(self) -> SnapshotStore:
        return SnapshotStore(self.root / "data" / "snapshots")

    @property
    def database(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def summary(self) -> dict[str, Any]:
        """What the last run said of itself."""
        said: dict[str, Any] = json.loads((self.root / "summary.json").read_text())
        return said

    def words(self, command: str, *arguments: str) -> list[str]:
        """A command with this place's settings."""
        given = {"storage.root": self.root / "data", "tracking.uri": self.database, **SMALL}
        if command == "run":
            arguments = ("--input", str(self.reviews), "--json", str(self.root / "summary.json"), *arguments)
        return [command, *arguments, *(word for name, value in given.items() for word in ("--set", f"{name}={value}"))]

    def call(self, *command: str, **variables: str) -> Done:
        """Call a command of `raymill` in this process."""
        return raymill(*self.words(*command), COLUMNS="200", **variables)

    def start(self, *command: str, kill_at: str = "", around: Sequence[str] = ()) -> tuple[int, str]:
        """Run a command of `raymill` in a process of its own; returns its exit status and what it said.

        around: a command that runs it.
        """
        said = self.root / "said.txt"
        variables = {"COLUMNS": "200", "RAYMILL_KILL_AT": kill_at}
        ended = processes.run(lambda: processes.spawn(self.words(*command), said, variables, around), said, LIMIT_S)
        assert ended.status is not None, f"it did not end: {ended.said}"
        return ended.status, ended.said

    def copy(self, root: Path, *, without: Collection[str]) -> Place:
        """A place as a run leaves it that got so far: the same snapshots, but for those of some stages."""
        for folder in (self.store.root).iterdir():
            if folder.name not in without:
                shutil.copytree(folder, root / "data" / "snapshots" / folder.name, copy_function=os.link)
        return Place(root, self.reviews)


@dataclass(frozen=True)
class Finished:
    """A run that nobody disturbed: its place, what it printed, its summary, and its processes by kind."""

    place: Place
    said: str
    summary: dict[str, Any]
    processes: dict[str, int]


def not_asked_for() -> set[str]:
    """The stages that a run leaves out unless settings ask for them: product metadata, and what is not enabled."""
    given = load_settings()
    stages = declared_stages()
    others = {name for name, stage in stages.items() if stage.flow != "etl-train"}
    off = {name for name, stage in stages.items() if not getattr(getattr(given, stage.section), "enabled", True)}
    return {"ingest-items", "items", *others, *off}


def assert_clean(store: SnapshotStore, stages: Collection[str]) -> None:
    """Of each stage there is a snapshot; at each key one committed attempt, whole, its manifest, and nothing else."""
    snapshots = list(store)
    assert {s.stage for s in snapshots} == set(stages)
    for snapshot in snapshots:
        names = {p.name for p in Path(snapshot.folder).iterdir()}
        assert names == {"manifest.json", snapshot.manifest.attempt}
        assert damaged_files(Path(snapshot.folder), snapshot.manifest, full=True) == []
