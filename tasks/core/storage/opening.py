"""Open the store of snapshots that the settings name: a folder, or a bucket with a folder as its working copy."""

from __future__ import annotations

from tasks.core.sections import StorageConfig
from tasks.core.storage.store import SnapshotStore


def open_store(storage: StorageConfig) -> SnapshotStore:
    """Open the store: the folder storage.root alone, or with a bucket. Opening sends no request.

    Raises SettingsError for an invalid address.
    """
    root = storage.path / "snapshots"
    if storage.remote is None:
        return SnapshotStore(root)
    from tasks.core.storage.bucket import Bucket
    from tasks.core.storage.mirror import MirroredStore

    return MirroredStore(root, Bucket(storage.remote))
