"""A store of snapshots in a bucket. The folder below storage.root is its working copy, with the same names.

    PREFIX/snapshots/STAGE/KEY/manifest.json       published last, create-if-absent, then in the folder
    PREFIX/snapshots/STAGE/KEY/attempt-ID/...      the data files
    PREFIX/runs/RUN.json, PREFIX/reports/RUN/...   records and reports of runs

Commit: seal the attempt in the folder (files synced, the manifest beside it), send its files, then create the manifest
in the bucket if there is none. Of two machines the first wins; the other removes its attempt and fetches the winner's.
A sealed attempt outlives its process: the next process to look for the key sends the missing files, and the stage does
not run again.

Find: fetch a snapshot that is only in the bucket; send one that is only in the folder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.core import faults, locks
from tasks.core.errors import RaymillError, TransientError
from tasks.core.snapshot_files import fsync
from tasks.core.snapshots import EarlierPart, Manifest, Snapshot, SnapshotWriter
from tasks.core.storage import run_records
from tasks.core.storage.bucket import Bucket
from tasks.core.storage.remote_snapshots import AT_ONCE, SETTLED, RemoteSnapshots, each
from tasks.core.storage.store import SnapshotStore, damaged_files, parts_of, remove_attempt, remove_scratch

LOOK_BACK = 20  # snapshots of a stage that are searched for parts to reuse
_LOG = logging.getLogger(__name__)


class MirroredStore(SnapshotStore):
    """All snapshots of a bucket, and a folder with those that this machine has made or needed.

    Beside SnapshotCorrupt, methods raise what `Bucket` does: SettingsError for what a user must fix, TransientError if
    the store does not answer.
    """

    def __init__(self, root: Path, bucket: Bucket) -> None:
        super().__init__(root)
        self.bucket = bucket
        self.there = RemoteSnapshots(bucket)
        self._shared: set[str] = set()  # keys whose manifest the bucket is known to hold

    def check(self) -> None:
        """Raise unless the bucket can be used; send the run records that it lacks."""
        self.bucket.check()
        sizes = {o.name: o.size for o in self.bucket.objects("runs/")}
        late = [p for p in self.records_here() if sizes.get(f"runs/{p.name}") != p.stat().st_size]
        late = [p for p in late if run_records.parsed(str(p), p.read_bytes()) is not None]  # the bucket's may be whole
        each(late, lambda _, path: self.keep(path))

    def keep(self, path: Path) -> None:
        """Send a file beside the snapshots. A failure is only a warning: `check` sends records again."""
        name = path.relative_to(self.root.parent).as_posix()
        try:
            self.bucket.put(name, path.read_bytes())
        except RaymillError as error:
            _LOG.warning("%s is not in the bucket yet: %s", name, error.what)

    def records(self) -> Iterator[tuple[dict[str, Any], bool]]:
        """Yield the run records of all machines. One that is broken here is read from the bucket."""
        here = {f"runs/{path.name}": path for path in self.records_here()}
        there = {o.name for o in self.bucket.objects("runs/") if o.name.endswith(".json")}
        names = sorted({*here, *there}, reverse=True)

        def read(name: str) -> dict[str, Any] | None:
            if name in here and (record := run_records.parsed(str(here[name]), here[name].read_bytes())):
                return record
            data = self.bucket.get(name) if name in there else None
            return None if data is None else run_records.parsed(f"{self.bucket}/{name}", data)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for name, record in zip(names, pool.map(read, names), strict=True):
                if record is not None:
                    yield record, name in here

    def manifests(self, stage: str = "*") -> dict[str, Manifest]:
        """Return the manifests of folder and bucket by key; damaged ones in the bucket are left out."""
        below = "" if stage == "*" else f"{stage}/"
        return {manifest.key: manifest for manifest in self.there.all(below)} | super().manifests(stage)

    def look(self, stage: str, key: str) -> Manifest | None:
        return super().look(stage, key) or self.there.find(stage, key)

    def holds(self, stage: str, key: str) -> bool:
        return super().holds(stage, key) or self.there.find(stage, key) is not None

    def find(self, stage: str, key: str) -> Snapshot | None:
        """Find the committed snapshot with this key; fetch it from the bucket, or send it there, if it is missing."""
        if committed := super().find(stage, key):
            self._share(committed)
            return committed
        theirs = self.there.find(stage, key)
        found = (theirs and self._fetch(theirs)) or self._finish(stage, key)
        if found:
            remove_scratch(Path(found.folder))
            faults.point(stage, "after-manifest")
        return found

    def open_attempt(self, stage: str, key: str) -> SnapshotWriter:
        writer = super().open_attempt(stage, key)
        writer.earlier = _EarlierElsewhere(self, stage, writer.earlier)
        return writer

    def discard(self, writer: SnapshotWriter) -> None:
        """Remove an attempt, unless it is sealed and only waits for the bucket."""
        if (writer.folder / f"{writer.attempt}.manifest").exists():
            writer.lock.close()
        else:
            super().discard(writer)

    def is_waiting(self, attempt: Path) -> bool:
        """Whether an attempt is sealed and recent enough to be sent later."""
        sealed = attempt.with_name(f"{attempt.name}.manifest")
        return sealed.exists() and sealed.stat().st_mtime > (datetime.now(UTC) - SETTLED).timestamp()

    def publish(self, folder: Path, manifest: Manifest) -> Snapshot:
        """Send a sealed attempt, publish its manifest there, then here; return the snapshot that came first."""
        winner = self.there.send(folder, manifest, (folder / f"{manifest.attempt}.manifest").read_bytes())
        if winner.attempt == manifest.attempt:
            self._shared.add(manifest.key)
            return super().publish(folder, manifest)
        theirs = self._fetch(winner)
        if theirs is None:
            what = "another machine's snapshot was removed while it was fetched"
            raise TransientError(what, where=str(folder), fix="start again")
        remove_attempt(folder / manifest.attempt)
        return theirs

    def _share(self, snapshot: Snapshot) -> None:
        """Send a snapshot that is older than the bucket's setting, or was removed from the bucket."""
        if snapshot.key in self._shared:
            return
        try:
            theirs = self.there.find(snapshot.stage, snapshot.key)
            if theirs is None:
                folder = Path(snapshot.folder)
                theirs = self.there.send(folder, snapshot.manifest, (folder / "manifest.json").read_bytes())
        except TransientError as error:  # the work is done; the bucket can wait for it
            _LOG.warning("%s is not in the bucket yet: %s", snapshot, error.what)
            return
        if theirs.digest != snapshot.digest:
            _LOG.warning("%s: the bucket has another one of this key, %s; both stay", snapshot, theirs.digest[:12])
        self._shared.add(snapshot.key)

    def _fetch(self, manifest: Manifest) -> Snapshot | None:
        """Fetch a snapshot and publish it here; None if it is removed from the bucket meanwhile."""
        folder = self.root / manifest.stage / manifest.key
        folder.mkdir(parents=True, exist_ok=True)
        with locks.locked(folder / f"{manifest.attempt}.lock"):
            if fetched := super().find(manifest.stage, manifest.key):
                return fetched  # by another process
            if not self.there.bring(manifest, folder / manifest.attempt):
                remove_attempt(folder / manifest.attempt)
                return None
            with (folder / f"{manifest.attempt}.manifest").open("w") as file:
                file.write(manifest.text())
                fsync(file)
            self._shared.add(manifest.key)
            return super().publish(folder, manifest)

    def _finish(self, stage: str, key: str) -> Snapshot | None:
        """Publish an attempt that a process sealed and could not send."""
        folder = self.root / stage / key
        for sealed in sorted(folder.glob("attempt-*.manifest")):
            with locks.locked(sealed.with_suffix(".lock"), wait=False) as ours:
                try:
                    manifest = Manifest.model_validate_json(sealed.read_bytes())
                except (ValueError, FileNotFoundError):  # killed while writing it, or published by now
                    continue
                if ours and not damaged_files(folder, manifest, full=True):
                    return self.publish(folder, manifest)
        return None


class _EarlierElsewhere:
    """Finds a part in the snapshots of one stage, here first and then in the bucket; fetches the one that has it."""

    def __init__(self, store: MirroredStore, stage: str, here: Callable[[str], EarlierPart | None]) -> None:
        self._store, self._stage, self._here = store, stage, here
        self._there: dict[str, Manifest] | None = None
        self._fetched: dict[str, EarlierPart] = {}

    def __call__(self, identity: str) -> EarlierPart | None:
        if earlier := self._here(identity) or self._fetched.get(identity):
            return earlier
        try:
            if self._there is None:
                latest = self._store.there.all(f"{self._stage}/", last=LOOK_BACK)
                self._there = {part: manifest for manifest in latest for part in manifest.parts}
            if manifest := self._there.get(identity):
                self._there = {part: m for part, m in self._there.items() if m.key != manifest.key}
                if snapshot := self._store.find(self._stage, manifest.key):
                    self._fetched.update(parts_of(Path(snapshot.folder), snapshot.manifest))
        except RaymillError as error:  # it is only a shortcut
            _LOG.warning("no parts of earlier snapshots are reused: %s", error.what)
            self._there = {}
        return self._fetched.get(identity)
