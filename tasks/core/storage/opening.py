"""Open the store of snapshots that the settings name: a folder, or one whose home is a bucket."""

from __future__ import annotations

from tasks.core.sections import StorageConfig
from tasks.core.storage.store import SnapshotStore


def open_store(storage: StorageConfig) -> SnapshotStore:
    """The store that the settings name: below storage.root alone, or with a bucket as its home. Opening asks nothing.

    Raises SettingsError for an address that cannot be one.
    """
    root = storage.path / "snapshots"
    if storage.remote is None:
        return SnapshotStore(root)
    from tasks.core.storage.bucket import Bucket
    from tasks.core.storage.mirror import MirroredStore

    return MirroredStore(root, Bucket(storage.remote))
