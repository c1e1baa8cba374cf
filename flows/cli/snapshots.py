"""List the snapshots on disk and in the bucket with their lineage; remove what nothing refers to."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group

from flows.cli.tables import NotedRow, noted_table
from flows.run.record import RunRecord, StageRow
from tasks.core.errors import SnapshotCorrupt, UserError
from tasks.core.secrets import masked
from tasks.core.snapshots import SCRATCH, Manifest, Snapshot, load_manifest
from tasks.core.storage.bucket import Bucket
from tasks.core.storage.mirror import MirroredStore
from tasks.core.storage.opening import open_store
from tasks.core.storage.store import (
    SnapshotStore,
    damaged_files,
    is_at_work,
    orphaned_attempts,
    remove_attempt,
    remove_scratch,
)
from tasks.settings import Settings

DAY_S = 86_400.0  # the state of a stage that nobody went on with since then


@dataclass(frozen=True)
class Removal:
    """Something `gc` removes, and why: a folder, or objects of a bucket. `size` in bytes."""

    path: Path | str
    why: str
    size: int
    bucket: Bucket | None = None
    names: tuple[str, ...] = ()


def store_of(settings: Settings) -> SnapshotStore:
    return open_store(settings.storage)


def size_of(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def plan_gc(
    settings: Settings, *, damaged: bool = False, spared: Collection[str] = (), idle: bool = True
) -> list[Removal]:
    """List what to remove: orphaned attempts, the state of unfinished stages, and snapshots of neither the last N runs
    nor a registered model.

    spared: keys of further snapshots to keep, without what they were made from. Unless `idle` all snapshots are kept:
    a run at work may need one that no record names yet. If the store has a bucket, the runs are those of all machines,
    and the bucket is cleaned in the same way.
    Raises RegistryError if the registry does not answer, TransientError if the bucket does not: nothing may be removed
    then.
    """
    store = store_of(settings)
    store.check()
    removals: list[Removal] = []
    for folder in sorted(p for p in store.root.glob("*/*") if p.is_dir()):
        for attempt in orphaned_attempts(folder):
            if not store.is_waiting(attempt):
                removals.append(Removal(attempt, "attempt of a process that is gone", size_of(attempt)))
        if is_left(scratch := folder / SCRATCH):
            removals.append(Removal(scratch, "state of a stage that nobody goes on with", size_of(scratch)))
        if damaged and idle and (problem := _damage(folder)):
            removals.append(Removal(folder, problem, size_of(folder)))
    if not idle:
        return removals
    kept = {*store.lineage(needed_keys(settings, store)), *spared}
    gone = {removal.path for removal in removals}
    for snapshot in store:
        if snapshot.key not in kept and Path(snapshot.folder) not in gone:
            removals.append(Removal(Path(snapshot.folder), "superseded", size_of(Path(snapshot.folder))))
    if isinstance(store, MirroredStore):
        for left in store.there.leftovers(kept, full=damaged):
            removals.append(Removal(f"{store.bucket}: {left.home}", left.why, left.size, store.bucket, left.names))
    return removals


def is_left(scratch: Path) -> bool:
    """Return whether a scratch folder is of no use: its stage is done, or nobody went on with it for a day."""
    if not scratch.is_dir() or is_at_work(scratch.parent):
        return False
    written = max(path.lstat().st_mtime for path in (scratch, *scratch.rglob("*")))
    return (scratch.parent / "manifest.json").exists() or time.time() - written > DAY_S


def remove(removal: Removal) -> None:
    if removal.bucket is not None:
        removal.bucket.delete(removal.names)
        return
    path = Path(removal.path)
    if path.name.startswith("attempt-"):
        remove_attempt(path)
        return
    if path.name == SCRATCH:
        remove_scratch(path.parent)
        with suppress(OSError):
            path.parent.rmdir()  # where nothing else is at the key
        return
    # The manifest first: without it no reader trusts the files.
    (path / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(path)


def needed_keys(settings: Settings, store: SnapshotStore) -> set[str]:
    """Return the keys that the last runs or registered models refer to.

    Another machine's run may have registered its model in a registry that this machine cannot ask: its snapshots are
    kept for ever.
    """
    from tasks.engines import tracking

    own = masked(tracking.tracking_uri(settings.tracking))
    needed = registered_keys(settings)
    for place, (stored, here) in enumerate(store.records()):
        record = RunRecord.from_json(stored)
        # Two machines may have database files of the same name: equal SQLite addresses prove nothing.
        asked = here or (record.tracking == own and not own.startswith("sqlite"))
        if place < settings.storage.keep_runs or (record.decision and not asked):
            needed |= {row.key for row in record.stages}
    return needed


def registered_keys(settings: Settings) -> set[str]:
    """Return the keys of the snapshots behind all versions of all registered models."""
    from tasks.engines import model_versions, tracking

    uri = tracking.tracking_uri(settings.tracking)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return set()  # nothing was ever registered
    keys: set[str] = set()
    client = tracking.connect(uri)
    with tracking.reaching(uri):
        for version in model_versions.all_versions(client):
            keys.update(json.loads(version.tags.get("raymill.snapshot_keys", "[]")))
    return keys


def snapshot_table(found: Sequence[Snapshot]) -> Group:
    """Return a table with a row for each snapshot: its size, when it was committed, and below it its inputs."""
    rows = []
    for snapshot in found:
        about = snapshot.manifest
        count = sum(e.rows or 0 for e in about.files if e.table != "rejects")
        size = f"{size_of(Path(snapshot.folder)) / 1e6:,.1f}"
        committed = about.committed_at[:16].replace("T", " ")
        made_from = "from " + ", ".join(f"{i.stage}@{i.digest[:8]}" for i in about.inputs)
        cells = [snapshot.stage, snapshot.digest[:12], f"{count:,}", size, committed]
        rows.append(NotedRow(cells, [made_from] if about.inputs else []))
    return noted_table(["stage", "snapshot", "rows", "MB", "committed"], rows, right={"rows", "MB"})


def lineage_graph(store: SnapshotStore, stage: str | None = None) -> str:
    """Return the lineage of the newest run's snapshots, from their manifests, as a Mermaid flowchart.

    stage: only its snapshot and what it was made from. Raises UserError if there is no such run.
    """
    known = store.manifests()
    for stored, _ in store.records():
        rows = {row.key: row for row in RunRecord.from_json(stored).stages if row.key in known}
        lineage = store.lineage(key for key, row in rows.items() if stage in (None, row.stage))
        if lineage:
            return _flowchart([(row, known[key]) for key, row in rows.items() if key in lineage])
    what = f"no run has a snapshot of {stage}" if stage else "no run has a snapshot yet"
    raise UserError(what, where=str(store.root), fix="raymill run makes them")


def _flowchart(made: Sequence[tuple[StageRow, Manifest]]) -> str:
    """Return the flowchart of `made`: each stage's row in the run's record and its manifest, in order."""
    lines = ["flowchart LR"]
    for row, manifest in made:
        amount = f"{row.rows:,} {row.unit}<br/>" if row.rows else ""
        node = manifest.stage.replace("-", "_")
        for read in manifest.inputs:
            origin = read.stage.replace("-", "_") if read.key else f"raw_{node}"
            if not read.key:  # raw files, no snapshot
                lines.append(f'    {origin}[("raw files<br/>{read.digest[:8]}")]')
            lines.append(f"    {origin} --> {node}")
        lines.append(f'    {node}["{manifest.stage}<br/>{amount}{manifest.digest[:8]}"]')
    return "\n".join(lines)


def _damage(folder: Path) -> str:
    path = folder / "manifest.json"
    if not path.exists():
        return ""
    try:
        damaged = damaged_files(folder, load_manifest(path), full=True)
    except SnapshotCorrupt:
        return "its manifest cannot be read"
    return f"{len(damaged)} file(s) gone or changed" if damaged else ""
