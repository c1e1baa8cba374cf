"""The store of snapshots: attempts, the commit, and finding what is committed.

A manifest is published last and create-if-absent: of two processes at one key the first wins, and a process that is
killed anywhere leaves either a whole snapshot or an attempt that nobody sees and the next one removes.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tasks.core import faults
from tasks.core.digests import digest_of, file_sha256
from tasks.core.errors import SnapshotCorrupt
from tasks.core.snapshots import (
    DRAFT,
    EarlierPart,
    FileEntry,
    Manifest,
    Snapshot,
    SnapshotWriter,
    fsync,
    fsync_folder,
    load_manifest,
)


class SnapshotStore:
    """All snapshots below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, stage: str, key: str) -> Snapshot | None:
        """The committed snapshot with this key, if its files are still as the manifest says."""
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

    def open_attempt(self, stage: str, key: str) -> SnapshotWriter:
        """A fresh attempt folder, locked for as long as this process lives; dead attempts at this key are removed."""
        folder = self.root / stage / key
        folder.mkdir(parents=True, exist_ok=True)
        for orphan in orphaned_attempts(folder):
            remove_attempt(orphan)
        attempt = f"attempt-{uuid.uuid4().hex[:12]}"
        lock = (folder / f"{attempt}.lock").open("wb")
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / attempt).mkdir()
        return SnapshotWriter(
            stage=stage, key=key, folder=folder, attempt=attempt, lock=lock, earlier=_EarlierParts(self.root / stage)
        )

    def discard(self, writer: SnapshotWriter) -> None:
        """Remove an attempt, unless its manifest is published already: an interrupt may come right after that."""
        writer.lock.close()
        manifest = writer.folder / "manifest.json"
        if not manifest.exists() or load_manifest(manifest).attempt != writer.attempt:
            remove_attempt(writer.root)

    def commit(self, writer: SnapshotWriter, **about: Any) -> Snapshot:
        """Verify the files, then publish the manifest create-if-absent.

        Where another process published the same key first, its snapshot is returned and this attempt removed.
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
            raise SnapshotCorrupt(f"written file is not as it was written: {damaged[0]}", where=writer.stage)
        for left in writer.root.rglob(f"*{DRAFT}"):  # by workers that died
            left.unlink(missing_ok=True)
        for folder in sorted({(writer.root / e.name).parent for e in entries} | {writer.root, writer.folder}):
            fsync_folder(folder)
        faults.point(writer.stage, "before-manifest")
        published = writer.folder / "manifest.json"
        draft = writer.folder / f"{writer.attempt}.manifest"
        with draft.open("w") as file:
            file.write(json.dumps(manifest.model_dump(), indent=1, sort_keys=True))
            fsync(file)
        try:
            os.link(draft, published)  # fails if it exists: the first commit of a key stands
        except FileExistsError:
            self.discard(writer)
        else:
            writer.lock.close()
            (writer.folder / f"{writer.attempt}.lock").unlink(missing_ok=True)
        draft.unlink(missing_ok=True)
        fsync_folder(writer.folder)
        shutil.rmtree(writer.folder / "scratch", ignore_errors=True)
        faults.point(writer.stage, "after-manifest")
        snapshot = self.find(writer.stage, writer.key)
        assert snapshot is not None
        return snapshot

    def __iter__(self) -> Iterator[Snapshot]:
        for path in sorted(self.root.glob("*/*/manifest.json")):
            try:
                manifest = load_manifest(path)
            except SnapshotCorrupt:
                continue  # `gc --damaged` lists and removes these
            yield Snapshot(manifest.stage, manifest.key, manifest.digest, str(path.parent))

    def lineage(self, keys: Iterable[str]) -> set[str]:
        """These keys and those of everything they were made from."""
        known = {s.key: s for s in self}
        closed: set[str] = set()
        todo = [k for k in keys if k in known]
        while todo:
            key = todo.pop()
            if key not in closed:
                closed.add(key)
                todo.extend(i.key for i in known[key].manifest.inputs if i.key in known)
        return closed


class _EarlierParts:
    """Looks up a part in the committed snapshots of one stage; they are listed on the first call."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, EarlierPart] | None = None

    def __call__(self, identity: str) -> EarlierPart | None:
        if self._known is None:
            self._known = {}
            for path in self._folder.glob("*/manifest.json"):
                try:
                    manifest = load_manifest(path)
                except (SnapshotCorrupt, OSError):
                    continue
                root, entries = path.parent / manifest.attempt, {e.name: e for e in manifest.files}
                for part, record in manifest.parts.items():
                    self._known[part] = EarlierPart(root, tuple(entries[f] for f in record.files), record.about)
        return self._known.get(identity)


def damaged_files(folder: Path, manifest: Manifest, *, full: bool) -> list[str]:
    """Names of files whose size (or, if `full`, sha256) differs from the manifest's."""
    damaged = []
    for entry in manifest.files:
        path = folder / manifest.attempt / entry.name
        if not path.is_file() or path.stat().st_size != entry.size or (full and file_sha256(path) != entry.sha256):
            damaged.append(entry.name)
    return damaged


def orphaned_attempts(folder: Path) -> list[Path]:
    """Attempt folders at one key that are neither committed nor held by a living process."""
    manifest = folder / "manifest.json"
    committed = load_manifest(manifest).attempt if manifest.exists() else None
    return [
        path
        for path in sorted(folder.glob("attempt-*"))
        if path.is_dir() and path.name != committed and not _is_held(folder / f"{path.name}.lock")
    ]


def remove_attempt(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    for leftover in (path.with_name(f"{path.name}.lock"), path.with_name(f"{path.name}.manifest")):
        leftover.unlink(missing_ok=True)


def _is_held(lock: Path) -> bool:
    # The lock goes with the process that took it, however that process ended.
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _schema_of(root: Path, entries: Sequence[FileEntry], table: str) -> list[str]:
    first = next(e for e in entries if e.table == table and e.rows is not None)
    return [f"{f.name}: {f.type}" for f in pq.read_schema(root / first.name)]
