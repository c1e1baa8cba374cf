"""Find, send, fetch and remove snapshots in a bucket.

Only manifests are trusted, as in a folder. An object exists whole or not at all, and only one process writes below an
attempt's name; so an object of the right size below it is the file that was sent.
"""

from __future__ import annotations

import os
import re
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import TypeVar

from tasks.core import faults
from tasks.core.digests import file_sha256
from tasks.core.errors import RaymillError, SnapshotCorrupt, TransientError
from tasks.core.snapshot_files import DRAFT, FileEntry, fsync, fsync_folder
from tasks.core.snapshots import Manifest
from tasks.core.storage.bucket import Bucket, Stored

AT_ONCE = 8  # files in transfer
SETTLED = timedelta(days=1)  # younger objects may belong to a run in progress on another machine
FRESH = SETTLED / 2  # older objects are sent again: `leftovers` may be about to remove them
FIX = "raymill gc --damaged removes it there; the next run makes it again"
T = TypeVar("T")


@dataclass(frozen=True)
class Leftover:
    """Objects that may be removed, in this order, and why. `size` in bytes."""

    home: str
    names: tuple[str, ...]
    size: int
    why: str


class RemoteSnapshots:
    """The snapshots below a bucket's prefix. Methods raise what `Bucket` does, and SnapshotCorrupt."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket

    def find(self, stage: str, key: str) -> Manifest | None:
        """Read the manifest of a committed snapshot. Raises SnapshotCorrupt for one that must not be trusted."""
        data = self.bucket.get(f"{home(stage, key)}/manifest.json")
        if data is None:
            return None
        try:
            manifest = Manifest.model_validate_json(data)
        except ValueError:
            raise self._corrupt(stage, key, "not a manifest") from None
        # Names become local paths: none may lead out of the attempt's folder.
        paths = [PurePosixPath(entry.name) for entry in manifest.files]
        inside = not any(path.is_absolute() or ".." in path.parts for path in paths)
        if (
            not inside
            or not re.fullmatch(r"attempt-\w+", manifest.attempt)
            or (manifest.stage, manifest.key) != (stage, key)
        ):
            raise self._corrupt(stage, key, "a manifest of another snapshot")
        return manifest

    def all(self, below: str = "", last: int | None = None) -> list[Manifest]:
        """Read the (`last`) manifests below snapshots/, the oldest first; damaged ones are left out."""
        listed = [o for o in self.bucket.objects(f"snapshots/{below}") if is_manifest(o.name)]
        listed.sort(key=lambda o: o.modified)

        def read(stored: Stored) -> Manifest | None:
            _, stage, key, _ = PurePosixPath(stored.name).parts
            with suppress(SnapshotCorrupt):
                return self.find(stage, key)
            return None

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return [m for m in pool.map(read, listed[-last:] if last else listed) if m is not None]

    def send(self, folder: Path, manifest: Manifest, data: bytes) -> Manifest:
        """Send the missing files, then the manifest's bytes; return the manifest that is there then.

        `folder` is the local folder of the key. If another attempt has won, this one's files are removed again.
        """
        at = home(manifest.stage, manifest.key)
        attempt = f"{at}/{manifest.attempt}"

        def upload(_: int, item: tuple[int, FileEntry]) -> None:
            index, entry = item
            self.bucket.upload(f"{attempt}/{entry.name}", folder / manifest.attempt / entry.name, entry.sha256)
            faults.point(manifest.stage, "sent", index)

        each(self._lacking(manifest, datetime.now(UTC) - FRESH), upload)
        if left := self._lacking(manifest):
            raise self._unsettled(manifest, f"{left[0][1].name} was sent and is not there in full")
        faults.point(manifest.stage, "before-remote-manifest")
        created = self.bucket.put_if_absent(f"{at}/manifest.json", data)
        # The manifest that exists may be our own, if the first answer got lost.
        winner = manifest if created else self.find(manifest.stage, manifest.key)
        faults.point(manifest.stage, "after-remote-manifest")
        if winner is None:
            raise self._unsettled(manifest, "it was removed while it was made")
        if winner.attempt != manifest.attempt:
            with suppress(RaymillError):  # or `gc` does it
                self.bucket.delete([f"{attempt}/{entry.name}" for entry in manifest.files])
        return winner

    def bring(self, manifest: Manifest, root: Path) -> bool:
        """Fetch a snapshot's files to its attempt's folder `root`; False if the snapshot was removed meanwhile.

        Undamaged local files are not fetched again. Raises SnapshotCorrupt if a file is not as committed.
        """
        root.mkdir(parents=True, exist_ok=True)
        try:
            each(manifest.files, lambda index, entry: self._download(manifest, root, index, entry))
        except FileNotFoundError as error:
            if self.find(manifest.stage, manifest.key) != manifest:
                return False
            raise self._corrupt(manifest.stage, manifest.key, f"a committed file is gone: cannot {error}") from None
        for left in root.rglob(f"*{DRAFT}"):  # by a process that was killed
            left.unlink(missing_ok=True)
        for folder in {(root / entry.name).parent for entry in manifest.files} | {root}:
            fsync_folder(folder)
        return True

    def leftovers(self, kept: set[str], *, full: bool) -> Iterator[Leftover]:
        """List what may be removed: snapshots with keys not in `kept`, and attempts without a manifest; all over a day
        old. With `full`, also snapshots whose files' sha256 differ; that reads every byte.
        """
        before = datetime.now(UTC) - SETTLED
        homes: dict[str, list[Stored]] = defaultdict(list)
        for stored in self.bucket.objects("snapshots/"):
            parts = PurePosixPath(stored.name).parts
            if len(parts) > 3:
                homes["/".join(parts[:3])].append(stored)
        for at, objects in homes.items():
            objects.sort(key=lambda o: not is_manifest(o.name))  # removed first: without it nobody trusts the files
            _, stage, key = PurePosixPath(at).parts
            try:
                manifest = self.find(stage, key)
                problem = self._damage(manifest, objects) if full and manifest else ""
            except SnapshotCorrupt as error:
                if not full:
                    continue
                manifest, problem = None, error.what
            if manifest and not problem and key not in kept and objects[0].modified < before:
                problem = "superseded"
            if problem:
                yield _leftover(at, objects, problem)
                continue
            attempts: dict[str, list[Stored]] = defaultdict(list)
            for stored in objects:
                if not is_manifest(stored.name):
                    attempts[PurePosixPath(stored.name).parts[3]].append(stored)
            for attempt, sent in attempts.items():
                committed = manifest is not None and attempt == manifest.attempt
                if not committed and max(o.modified for o in sent) < before:
                    yield _leftover(f"{at}/{attempt}", sent, "attempt without a manifest")

    def _lacking(self, manifest: Manifest, since: datetime | None = None) -> list[tuple[int, FileEntry]]:
        """List the files of a snapshot, with their indices, that are not there in full, or older than `since`."""
        attempt = f"{home(manifest.stage, manifest.key)}/{manifest.attempt}/"
        there = {o.name: o.size for o in self.bucket.objects(attempt) if since is None or o.modified > since}
        return [(i, e) for i, e in enumerate(manifest.files) if there.get(attempt + e.name) != e.size]

    def _download(self, manifest: Manifest, root: Path, index: int, entry: FileEntry) -> None:
        path = root / entry.name
        if path.is_file() and path.stat().st_size == entry.size and file_sha256(path) == entry.sha256:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}{DRAFT}")
        digest = sha256()
        try:
            with draft.open("wb") as file:
                for chunk in self.bucket.chunks(_name(manifest, entry)):
                    file.write(chunk)
                    digest.update(chunk)
                fsync(file)
            if digest.hexdigest() != entry.sha256:
                raise self._corrupt(manifest.stage, manifest.key, f"a committed file has changed: {entry.name}")
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        faults.point(manifest.stage, "fetched", index)

    def _damage(self, manifest: Manifest, objects: Iterable[Stored]) -> str:
        sizes = {o.name: o.size for o in objects}

        def is_damaged(entry: FileEntry) -> bool:
            if sizes.get(_name(manifest, entry)) != entry.size:
                return True
            digest = sha256()
            with suppress(FileNotFoundError):
                for chunk in self.bucket.chunks(_name(manifest, entry)):
                    digest.update(chunk)
            return digest.hexdigest() != entry.sha256

        with ThreadPoolExecutor(AT_ONCE) as pool:
            damaged = sum(pool.map(is_damaged, manifest.files))
        return f"{damaged} file(s) gone or changed" if damaged else ""

    def _corrupt(self, stage: str, key: str, what: str) -> SnapshotCorrupt:
        return SnapshotCorrupt(what, where=f"{home(stage, key)} in {self.bucket}", fix=FIX)

    def _unsettled(self, manifest: Manifest, what: str) -> TransientError:
        return TransientError(what, where=f"{home(manifest.stage, manifest.key)} in {self.bucket}", fix="start again")


def home(stage: str, key: str) -> str:
    """Return a snapshot's folder below the prefix."""
    return f"snapshots/{stage}/{key}"


def is_manifest(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return len(parts) == 4 and parts[3] == "manifest.json"


def each(items: Iterable[T], do: Callable[[int, T], None]) -> None:
    """Call `do` for each item, AT_ONCE at a time; after a failure no more are started, and it is raised."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(do, index, item) for index, item in enumerate(items)]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _name(manifest: Manifest, entry: FileEntry) -> str:
    return f"{home(manifest.stage, manifest.key)}/{manifest.attempt}/{entry.name}"


def _leftover(at: str, objects: Iterable[Stored], why: str) -> Leftover:
    objects = list(objects)
    return Leftover(at, tuple(o.name for o in objects), sum(o.size for o in objects), why)
