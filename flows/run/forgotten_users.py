"""Keep the list of users to forget: below storage.root, and in the bucket, by which machines share it."""

from __future__ import annotations

from dataclasses import replace

from tasks.core.errors import RunError
from tasks.core.sections import StorageConfig
from tasks.core.whole_files import write_whole
from tasks.sources.forgotten import FILE, Forgotten, load


def users_to_forget(storage: StorageConfig) -> Forgotten | None:
    """Read the list, that of the bucket where there is one; None if nobody is on it.

    Raises InputError for a damaged list, and what `Bucket` does: a run without the list would read the users again.
    """
    path = storage.path / FILE
    if storage.remote is not None:
        from tasks.core.storage.bucket import Bucket

        if (shared := Bucket(storage.remote).get(FILE)) is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, shared, synced=True)
    return load(path)


def keep(forgotten: Forgotten, storage: StorageConfig) -> None:
    """Write the list here and to the bucket, with what another machine has added there since it was read.

    Raises RunError if that machine's list is another one: hashes of two salts do not go together.
    """
    path = storage.path / FILE
    if storage.remote is not None and (theirs := users_to_forget(storage)):
        if theirs.salt != forgotten.salt:
            raise RunError("another machine has begun the list of users to forget", fix="start raymill forget again")
        forgotten = replace(forgotten, users=forgotten.users | theirs.users, parts=forgotten.parts | theirs.parts)
    forgotten.save(path)
    if storage.remote is not None:
        from tasks.core.storage.bucket import Bucket

        Bucket(storage.remote).put(FILE, path.read_bytes())
