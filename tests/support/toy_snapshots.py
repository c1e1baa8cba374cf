"""Small snapshots for tests of stores, and helpers that inspect them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.core import faults
from tasks.core.snapshot_files import part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.storage.store import SnapshotStore, damaged_files

ABOUT: dict[str, Any] = {
    "inputs": (),
    "config": {},
    "config_digest": "c",
    "code": {},
    "deterministic": True,
    "seconds": {"run": 1.0},
    "committed_at": "2024-01-01T00:00:00+00:00",
}
TABLE = pa.table({"id": [1, 2, 3], "text": ["a", None, "ç"]})
MODEL = "models/model.ubj"
FILES = ("part-00000.parquet", "part-00001.parquet", MODEL)
COMMITTED = {f"snapshots/toy/k/{name}" for name in ("manifest.json", *(f"attempt/{file}" for file in FILES))}


def fill(writer: SnapshotWriter, table: pa.Table = TABLE) -> SnapshotWriter:
    writer.write_table(part_name(0), table.slice(0, 2))
    writer.write_table(part_name(1), table.slice(2))
    writer.write_bytes(MODEL, b"trees")
    writer.count(words=4)
    writer.fact(best=0.5)
    return writer


def made(store: SnapshotStore, key: str = "k", stage: str = "toy", table: pa.Table = TABLE, **about: Any) -> Snapshot:
    return store.commit(fill(store.open_attempt(stage, key), table), **{**ABOUT, **about})


def left(folder: Path) -> set[str]:
    """List the names at one key, except the committed attempt."""
    manifest = folder / "manifest.json"
    committed = Snapshot("", "", "", str(folder)).manifest.attempt if manifest.exists() else ""
    return {p.name for p in folder.iterdir()} - {committed}


def assert_whole(snapshot: Snapshot | None, table: pa.Table = TABLE) -> None:
    """All of it is here, and nothing else is at its key."""
    assert snapshot is not None
    assert snapshot.read().equals(table)
    folder = Path(snapshot.folder)
    assert damaged_files(folder, snapshot.manifest, full=True) == []
    assert {p.name for p in folder.iterdir()} == {"manifest.json", snapshot.manifest.attempt}
    assert {p.relative_to(snapshot.root).as_posix() for p in snapshot.root.rglob("*") if p.is_file()} == set(FILES)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, *where: Any) -> None:
    def interrupt(*point: Any) -> None:
        if point[1:] == where:
            raise KeyboardInterrupt

    monkeypatch.setattr(faults, "point", interrupt)
