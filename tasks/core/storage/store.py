"""The store of snapshots in a folder: open attempts, commit them, and find what is committed.

A manifest is published last and create-if-absent. So of two machines at one key the first wins, and a killed process
leaves either a whole snapshot or an invisible attempt, which the next process removes. Two processes of one folder take
turns at a key (`SnapshotStore.lock`).
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tasks.core import faults, locks
from tasks.core.digests import digest_of, file_sha256
from tasks.core.errors import SnapshotCorrupt
from tasks.core.snapshot_files import DRAFT, FileEntry, fsync, fsync_folder
from tasks.core.snapshots import SCRATCH, EarlierPart, Manifest, Snapshot, SnapshotWriter, load_manifest
from tasks.core.storage import run_records

LOCK = "stage.lock"  # beside the attempts, while a process runs the stage at their key


class SnapshotStore:
    """All snapshots below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def check(self) -> None:
        """Raise if the store cannot be used, before any work. A folder always can."""

    def keep(self, path: Path) -> None:
        """Store a file beside the snapshots (a run's record, a report). A folder has it already."""

    def records_here(self) -> list[Path]:
        """List this machine's run records, the oldest first."""
        return sorted((self.root.parent / "runs").glob("*.json"))

    def records(self) -> Iterator[tuple[dict[str, Any], bool]]:
        """Yield the run records, the newest first, each with whether the run was on this machine. Skip broken ones."""
        for path in reversed(self.records_here()):
            if (record := run_records.parsed(str(path), path.read_bytes())) is not None:
                yield record, True

    def is_waiting(self, attempt: Path) -> bool:
        """Whether a finished attempt waits to be sent. In a folder none does."""
        return False

    def holds(self, stage: str, key: str) -> bool:
        """Whether a snapshot with this key is committed; its files are not checked."""
        return (self.root / stage / key / "manifest.json").exists()

    def look(self, stage: str, key: str) -> Manifest | None:
        """Return the manifest that `find` would find; nothing is fetched or sent. Raises SnapshotCorrupt as it does."""
        found = SnapshotStore.find(self, stage, key)
        return found.manifest if found else None

    def find(self, stage: str, key: str) -> Snapshot | None:
        """Find the committed snapshot with this key. Raises SnapshotCorrupt if its files are not as committed."""
        folder = self.root / stage / key
        path = folder / "manifest.json"
        if not path.exists():
            return None
        manifest = load_manifest(path)
        if missing := damaged_files(folder, manifest, full=False):
            raise SnapshotCorrupt(
                f"{len(missing)} committed file(s) gone or changed, the first: {missing[0]}",
                where=str(folder),
                fix=f"raymill gc --damaged removes it; the next run makes {stage} again",
            )
        return Snapshot(stage, key, manifest.digest, str(folder))

    def lock(self, stage: str, key: str) -> Path:
        """Return the lock file that a process holds while it runs the stage at this key (`locks.alone`)."""
        return self.root / stage / key / LOCK

    def open_attempt(self, stage: str, key: str) -> SnapshotWriter:
        """Make an attempt folder, locked for as long as this process lives; remove dead attempts at this key."""
        folder = self.root / stage / key
        folder.mkdir(parents=True, exist_ok=True)
        for orphan in orphaned_attempts(folder):
            remove_attempt(orphan)
        attempt = f"attempt-{uuid.uuid4().hex[:12]}"
        lock = (folder / f"{attempt}.lock").open("wb")
        locks.take(lock)
        (folder / attempt).mkdir()
        return SnapshotWriter(
            stage=stage, key=key, folder=folder, attempt=attempt, lock=lock, earlier=_EarlierParts(self.root / stage)
        )

    def discard(self, writer: SnapshotWriter) -> None:
        """Remove an attempt, unless its manifest is published: an interrupt may come right after that."""
        writer.lock.close()
        manifest = writer.folder / "manifest.json"
        if not manifest.exists() or load_manifest(manifest).attempt != writer.attempt:
            remove_attempt(writer.root)

    def commit(self, writer: SnapshotWriter, **about: Any) -> Snapshot:
        """Verify the files, then publish the manifest create-if-absent.

        If another process published the same key first, its snapshot is returned and this attempt removed.
        """
        entries = tuple(sorted(writer.entries, key=lambda e: e.name))
        content = {
            "stage": writer.stage,
            "files": [e.model_dump() for e in entries],
            "counts": writer.counts,
            "facts": writer.facts,
        }
        manifest = Manifest(
            stage=writer.stage,
            key=writer.key,
            digest=digest_of(content),
            attempt=writer.attempt,
            files=entries,
            schemas={
                t: _schema_of(writer.root, entries, t) for t in sorted({e.table for e in entries if e.rows is not None})
            },
            parts=writer.parts,
            counts=writer.counts,
            facts=writer.facts,
            **about,
        )
        if damaged := damaged_files(writer.folder, manifest, full=False):
            raise SnapshotCorrupt(f"file has changed since it was written: {damaged[0]}", where=writer.stage)
        for left in writer.root.rglob(f"*{DRAFT}"):  # by workers that died
            left.unlink(missing_ok=True)
        for folder in sorted({(writer.root / e.name).parent for e in entries} | {writer.root, writer.folder}):
            fsync_folder(folder)
        faults.point(writer.stage, "before-manifest")
        with (writer.folder / f"{writer.attempt}.manifest").open("w") as file:
            file.write(manifest.text())
            fsync(file)
        snapshot = self.publish(writer.folder, manifest)
        shutil.rmtree(writer.folder / SCRATCH, ignore_errors=True)
        (writer.folder / LOCK).unlink(missing_ok=True)  # whoever comes from here on finds the snapshot
        writer.lock.close()
        faults.point(writer.stage, "after-manifest")
        return snapshot

    def publish(self, folder: Path, manifest: Manifest) -> Snapshot:
        """Publish a complete attempt's manifest, create-if-absent: the first one of a key wins."""
        published = folder / "manifest.json"
        draft = folder / f"{manifest.attempt}.manifest"
        with suppress(FileExistsError):
            os.link(draft, published)  # fails if it exists
        if load_manifest(published).attempt == manifest.attempt:
            draft.unlink(missing_ok=True)
            (folder / f"{manifest.attempt}.lock").unlink(missing_ok=True)
        else:
            remove_attempt(folder / manifest.attempt)
        fsync_folder(folder)
        snapshot = SnapshotStore.find(self, manifest.stage, manifest.key)
        assert snapshot is not None
        return snapshot

    def __iter__(self) -> Iterator[Snapshot]:
        return self._snapshots()

    def _snapshots(self, stage: str = "*") -> Iterator[Snapshot]:
        for path in sorted(self.root.glob(f"{stage}/*/manifest.json")):
            try:
                manifest = load_manifest(path)
            except SnapshotCorrupt:
                continue  # `gc --damaged` lists and removes these
            yield Snapshot(manifest.stage, manifest.key, manifest.digest, str(path.parent))

    def manifests(self, stage: str = "*") -> dict[str, Manifest]:
        """Read the manifests of all snapshots, or of one stage's, by key."""
        return {snapshot.key: snapshot.manifest for snapshot in self._snapshots(stage)}

    def lineage(self, keys: Iterable[str]) -> set[str]:
        """Return these keys and those of everything they were made from."""
        manifests = self.manifests()
        closed: set[str] = set()
        todo = [k for k in keys if k in manifests]
        while todo:
            key = todo.pop()
            if key not in closed:
                closed.add(key)
                todo.extend(i.key for i in manifests[key].inputs if i.key in manifests)
        return closed


class _EarlierParts:
    """Finds a part in the committed snapshots of one stage; they are listed on the first call."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts: dict[str, EarlierPart] | None = None

    def __call__(self, identity: str) -> EarlierPart | None:
        if self._parts is None:
            self._parts = {}
            for path in self._folder.glob("*/manifest.json"):
                try:
                    manifest = load_manifest(path)
                except (SnapshotCorrupt, OSError):
                    continue
                self._parts.update(parts_of(path.parent, manifest))
        return self._parts.get(identity)


def parts_of(folder: Path, manifest: Manifest) -> dict[str, EarlierPart]:
    """Return the parts of a snapshot in this folder, by identity."""
    root, entries = folder / manifest.attempt, {e.name: e for e in manifest.files}
    return {
        part: EarlierPart(root, tuple(entries[f] for f in record.files), record.about)
        for part, record in manifest.parts.items()
    }


def damaged_files(folder: Path, manifest: Manifest, *, full: bool) -> list[str]:
    """List the files whose size (or, if `full`, sha256) differs from the manifest's."""
    damaged = []
    for entry in manifest.files:
        path = folder / manifest.attempt / entry.name
        if not path.is_file() or path.stat().st_size != entry.size or (full and file_sha256(path) != entry.sha256):
            damaged.append(entry.name)
    return damaged


def orphaned_attempts(folder: Path) -> list[Path]:
    """List the attempt folders at one key that are neither committed nor locked by a living process."""
    manifest = folder / "manifest.json"
    committed = load_manifest(manifest).attempt if manifest.exists() else None
    return [
        path
        for path in sorted(folder.glob("attempt-*"))
        if path.is_dir() and path.name != committed and not locks.is_held(folder / f"{path.name}.lock")
    ]


def is_at_work(folder: Path) -> bool:
    """Return whether a living process works at this key."""
    return any(map(locks.is_held, [folder / LOCK, *folder.glob("attempt-*.lock")]))


def remove_attempt(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    for leftover in (path.with_name(f"{path.name}.lock"), path.with_name(f"{path.name}.manifest")):
        leftover.unlink(missing_ok=True)


def remove_scratch(folder: Path) -> None:
    """Remove what a stage at this key would go on from, unless a process runs it."""
    with locks.alone(folder / LOCK, wait=False) as free:
        if free:
            shutil.rmtree(folder / SCRATCH, ignore_errors=True)


def _schema_of(root: Path, entries: Sequence[FileEntry], table: str) -> list[str]:
    first = next(e for e in entries if e.table == table and e.rows is not None)
    return [f"{f.name}: {f.type}" for f in pq.read_schema(root / first.name)]
