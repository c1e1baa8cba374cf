"""What is on disk: listing snapshots with their lineage, and removing what nothing refers to."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.core.errors import SnapshotCorrupt
from tasks.core.settings import Settings
from tasks.core.snapshots import Snapshot, load_manifest
from tasks.core.store import SnapshotStore, damaged_files, orphaned_attempts, remove_attempt
from tasks.core.targets import TARGETS


@dataclass(frozen=True)
class Removal:
    """Something `gc` removes, and why."""

    path: Path
    why: str
    size: int


def store_of(settings: Settings) -> SnapshotStore:
    return SnapshotStore(settings.storage.path / "snapshots")


def size_of(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def recent_runs(settings: Settings) -> list[dict[str, Any]]:
    """Records of runs, the newest first."""
    files = sorted((settings.storage.path / "runs").glob("*.json"), reverse=True)
    return [json.loads(f.read_text()) for f in files]


def plan_gc(settings: Settings, *, damaged: bool = False) -> list[Removal]:
    """What may go: orphaned attempts, and snapshots that neither the last N runs nor a registered model refer to.

    Raises RegistryError where the registry cannot be asked: then nothing may be removed.
    """
    store = store_of(settings)
    removals: list[Removal] = []
    for folder in sorted(p for p in store.root.glob("*/*") if p.is_dir()):
        for attempt in orphaned_attempts(folder):
            removals.append(Removal(attempt, "attempt of a process that is gone", size_of(attempt)))
        if damaged and (problem := _damage(folder)):
            removals.append(Removal(folder, problem, size_of(folder)))
    runs = recent_runs(settings)[: settings.storage.keep_runs]
    needed = {row["key"] for run in runs for row in run["stages"]} | registered_keys(settings)
    kept = store.lineage(needed)
    for snapshot in store:
        if snapshot.key not in kept:
            removals.append(Removal(Path(snapshot.folder), "superseded", size_of(Path(snapshot.folder))))
    return removals


def remove(removal: Removal) -> None:
    if removal.path.name.startswith("attempt-"):
        remove_attempt(removal.path)
        return
    # The manifest first: from then on nobody believes in the files.
    (removal.path / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(removal.path)


def registered_keys(settings: Settings) -> set[str]:
    """Keys of snapshots that versions of the registered models, of any target, were made from."""
    from tasks.engines import tracking

    uri = tracking.tracking_uri(settings.tracking)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return set()  # nothing was ever registered
    keys: set[str] = set()
    client = tracking.connect(uri)
    with tracking.reaching(uri):
        for name in {settings.registry.name_for(target) for target in TARGETS}:
            for version in tracking.all_versions(client, name):
                keys.update(json.loads(version.tags.get("raymill.snapshot_keys", "[]")))
    return keys


def lineage_text(snapshot: Snapshot) -> str:
    return ", ".join(f"{i.stage}@{i.digest[:8]}" for i in snapshot.manifest.inputs)


def _damage(folder: Path) -> str:
    path = folder / "manifest.json"
    if not path.exists():
        return ""
    try:
        found = damaged_files(folder, load_manifest(path), full=True)
    except SnapshotCorrupt:
        return "its manifest cannot be read"
    return f"{len(found)} file(s) gone or changed" if found else ""
