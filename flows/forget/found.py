"""Find the snapshots that hold reviews of some users, and those that were made from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path

import polars as pl

from flows.forget.sought import Sought
from tasks.core.errors import RunError, SnapshotCorrupt
from tasks.core.locks import locked
from tasks.core.part_files import scan_parts
from tasks.core.snapshots import Manifest, Snapshot
from tasks.core.storage.mirror import MirroredStore
from tasks.core.storage.store import SnapshotStore

TEXTS = ("user_id", "review_id", "title", "text")
NAMING = ("user_id", "record", "review_id")  # columns by which the users' rows are found
HASHED = "keys"  # a table that names nobody, beside that of its rows


@dataclass
class Found:
    """In one store. files: of each snapshot, by key, those with the users' rows. touched: keys, those that others were
    made from last. parts, sources: the parts of raw reviews with the users' rows, and the raw files that these are of.
    """

    store: SnapshotStore
    manifests: Mapping[str, Manifest] = field(default_factory=dict)
    files: dict[str, set[str]] = field(default_factory=dict)
    touched: list[str] = field(default_factory=list)
    parts: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    counts: dict[str, Counter[str]] = field(default_factory=dict)  # rows of each user, by key of raw reviews

    def reviews(self, user: str) -> int:
        """Return how many reviews of a user the store holds: each night's snapshot may hold the same ones."""
        return max((counts[user] for counts in self.counts.values()), default=0)


def check_idle(store: SnapshotStore) -> None:
    """Raise RunError if a stage is at work in the store: it may be reading what is to be forgotten."""
    for lock in sorted(store.root.glob("*/*/*.lock")):
        with locked(lock, wait=False) as free:
            if not free:
                raise RunError(
                    f"a run is at work on the stage {lock.parts[-3]}",
                    where=str(store.root.parent),
                    fix="wait for its end, or stop it, and start raymill forget again",
                )


def find(store: SnapshotStore, sought: Sought) -> Found:
    """Search every table that names users or rejected records, then, by the reviews' ids, the tables of predictions.

    Raises SnapshotCorrupt for one of them that is damaged: nobody can tell whose rows it has.
    """
    found = Found(store, store.manifests())
    _search(found, sought, by_user=True)
    if sought.reviews:
        _search(found, sought, by_user=False)
    found.touched = made_from(found.manifests, found.files)
    return found


def names_users(manifest: Manifest, table: str) -> bool:
    """Tell whether the users' rows can be found in a table of a snapshot."""
    return any(column.partition(":")[0] in NAMING for column in manifest.schemas.get(table, ()))


def _search(found: Found, sought: Sought, *, by_user: bool) -> None:
    for key, manifest in found.manifests.items():
        tables = {t: {c.partition(":")[0] for c in columns} for t, columns in manifest.schemas.items()}
        naming = {t for t, names in tables.items() if {"user_id", "record"} & names}
        wanted = naming if by_user else {t for t, names in tables.items() if "review_id" in names} - naming
        if not wanted or not (snapshot := _here(found.store, manifest)):
            continue
        for entry in manifest.files:
            if entry.rows and entry.table in wanted:
                rows = rows_of(snapshot.root / entry.name, tables[entry.table], sought)
                if len(rows):
                    found.files.setdefault(key, set()).add(entry.name)
                    _account(found, manifest, entry.name, rows)
                    sought.learn(rows)


def _here(store: SnapshotStore, manifest: Manifest) -> Snapshot | None:
    """Return a snapshot, fetched if only the bucket has it. Raises SnapshotCorrupt if files of it are gone."""
    here = SnapshotStore.find(store, manifest.stage, manifest.key)
    return here or (store.find(manifest.stage, manifest.key) if isinstance(store, MirroredStore) else None)


def rows_of(file: Path, columns: Iterable[str], sought: Sought) -> pl.DataFrame:
    """Read the rows of the users from a file of a table: their names, ids and texts, as far as it has them.

    Raises SnapshotCorrupt for a file that cannot be read.
    """
    test = sought.of_rows(columns)
    assert test is not None
    names = [name for name in (*TEXTS, "record") if name in set(columns)]
    try:
        return scan_parts([file]).filter(test).select(names).collect()
    except (OSError, pl.exceptions.ComputeError) as error:
        raise SnapshotCorrupt(
            f"it cannot be read: {str(error).partition(chr(10))[0]}",
            where=str(file),
            fix="raymill gc --damaged removes its snapshot",
        ) from None


def _account(found: Found, manifest: Manifest, file: str, rows: pl.DataFrame) -> None:
    if not any(i.stage == "source" for i in manifest.inputs):
        return
    for identity, record in manifest.parts.items():
        if file in record.files:
            found.parts.add(identity)
            found.sources.update(unit["source"] for unit in record.about or ())
    if "user_id" in rows.columns:
        found.counts.setdefault(manifest.key, Counter()).update(rows["user_id"].to_list())


def made_from(manifests: Mapping[str, Manifest], first: Iterable[str]) -> list[str]:
    """Return these keys and those of all that was made from them, each before what it was made from."""
    order = TopologicalSorter({k: {i.key for i in m.inputs if i.key in manifests} for k, m in manifests.items()})
    touched = set(first)
    ordered = []
    for key in order.static_order():
        if key in touched or any(i.key in touched for i in manifests[key].inputs):
            touched.add(key)
            ordered.append(key)
    return ordered[::-1]
