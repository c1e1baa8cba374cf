"""Remove snapshots with the users' rows; keep what their untouched parts hold, for the next run to take over.

A part is kept in a snapshot of its own, at a key that no run looks for: parts are looked for in all snapshots of a
stage. `raymill gc` removes it once the next run has linked its files.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from flows.forget.found import HASHED, Found, names_users
from tasks.core import faults
from tasks.core.digests import digest_of
from tasks.core.errors import SnapshotCorrupt
from tasks.core.locks import locked
from tasks.core.snapshot_files import linked
from tasks.core.snapshots import Manifest, Snapshot, load_manifest
from tasks.core.storage.mirror import MirroredStore
from tasks.core.storage.store import SnapshotStore, orphaned_attempts, remove_attempt

REST_OF = "rest_of"  # fact of a snapshot of kept parts: the digest of what it was cut out of


def kept_parts(found: Found, manifest: Manifest) -> list[str]:
    """List the parts of a snapshot none of whose files has rows of the users, nor may hide them."""
    theirs = found.files.get(manifest.key, set())
    tables = {e.name: e.table for e in manifest.files}
    clear = {name for name, table in tables.items() if table == HASHED or names_users(manifest, table)} - theirs
    return [identity for identity, record in manifest.parts.items() if record.files and clear >= {*record.files}]


def keep_rest(found: Found, manifest: Manifest) -> Snapshot | None:
    """Commit a snapshot of the untouched parts, their files linked; None if there are none."""
    parts = kept_parts(found, manifest)
    if not parts:
        return None
    store, source = found.store, found.store.root / manifest.stage / manifest.key / manifest.attempt
    key = digest_of([manifest.key, REST_OF, sorted(parts)])[:32]
    if earlier := SnapshotStore.find(store, manifest.stage, key):
        return earlier
    out = SnapshotStore.open_attempt(store, manifest.stage, key)
    entries = {entry.name: entry for entry in manifest.files}
    for identity in parts:
        record = manifest.parts[identity]
        for name in record.files:
            linked(source / name, out.root / name, entries[name].size)
        out.part(identity, [entries[name] for name in record.files], record.about)
    out.fact(**{REST_OF: manifest.digest})
    about = ("inputs", "config", "code", "modules", "read", "config_digest", "deterministic", "committed_at")
    return store.commit(out, **{name: getattr(manifest, name) for name in about}, seconds={})


def remove(store: SnapshotStore, manifest: Manifest) -> None:
    """Remove a snapshot here and in the bucket, its manifest first: without it no reader trusts the files."""
    if isinstance(store, MirroredStore):
        home = f"snapshots/{manifest.stage}/{manifest.key}/"
        names = [f"{home}manifest.json", *(o.name for o in store.bucket.objects(home))]
        store.bucket.delete(list(dict.fromkeys(names)))
    folder = store.root / manifest.stage / manifest.key
    if folder.exists():
        (folder / "manifest.json").unlink(missing_ok=True)
        faults.point("forget", "unpublished")
        shutil.rmtree(folder)


def clear_leftovers(store: SnapshotStore) -> int:
    """Remove what no reader would find and no living process works on: dead attempts, and files without a manifest.

    One that cannot be read counts as none. An attempt that waits for the bucket goes, too: nobody knows what is in it.
    """
    removed = 0
    for folder in sorted(path for path in store.root.glob("*/*") if path.is_dir()):
        if _at_work(folder):
            continue
        if _is_published(folder):
            for orphan in orphaned_attempts(folder):
                remove_attempt(orphan)
                removed += 1
            shutil.rmtree(folder / "scratch", ignore_errors=True)
        else:
            shutil.rmtree(folder)
            removed += 1
    return removed


def _is_published(folder: Path) -> bool:
    try:
        return bool(load_manifest(folder / "manifest.json").attempt)
    except (OSError, SnapshotCorrupt):
        return False


def _at_work(folder: Path) -> bool:
    for lock in folder.glob("*.lock"):
        with locked(lock, wait=False) as free:
            if not free:
                return True
    return False
