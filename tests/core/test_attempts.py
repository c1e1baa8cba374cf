"""Attempts: trusted only once their manifest is published, orphaned when their process dies; damage is an error."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.core import faults
from tasks.core.errors import SnapshotCorrupt
from tasks.core.sections import PROJECT
from tasks.core.snapshot_files import part_name
from tasks.core.storage.store import SnapshotStore, damaged_files, orphaned_attempts, remove_attempt
from tests.support.toy_snapshots import ABOUT, MODEL, TABLE, fill, left, made


@contextmanager
def another_process(root: Path, stage: str, key: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has an open attempt at the key, for as long as the block lasts."""
    code = (
        "import sys; from pathlib import Path; from tasks.core.storage.store import SnapshotStore\n"
        f"writer = SnapshotStore(Path({str(root)!r})).open_attempt({stage!r}, {key!r})\n"
        "writer.write_bytes('half', b'half'); print(writer.attempt, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_an_attempt_without_a_manifest_is_seen_by_nobody(store: SnapshotStore) -> None:
    writer = fill(store.open_attempt("toy", "k"))
    # A manifest that was written but not published.
    committed = made(store, "other")
    (writer.folder / f"{writer.attempt}.manifest").write_text(committed.manifest.model_dump_json())
    assert store.find("toy", "k") is None
    assert list(store) == [committed]


def test_the_second_commit_of_a_key_loses_and_the_first_stands(store: SnapshotStore) -> None:
    first, second = store.open_attempt("toy", "k"), store.open_attempt("toy", "k")
    fill(first)
    fill(second, pa.table({"id": [9, 9, 9], "text": ["z"] * 3}))
    won = store.commit(first, **ABOUT)
    assert store.commit(second, **ABOUT) == won
    assert won.read().equals(TABLE)
    assert damaged_files(Path(won.folder), won.manifest, full=True) == []
    assert left(Path(won.folder)) == {"manifest.json"}


def test_an_attempt_is_removed_once_its_process_is_gone_and_not_before(store: SnapshotStore) -> None:
    with another_process(store.root, "toy", "k") as process:
        assert process.stdout is not None
        attempt = store.root / "toy" / "k" / process.stdout.readline().strip()
        store.discard(store.open_attempt("toy", "k"))
        assert (attempt / "half").exists()
        assert orphaned_attempts(attempt.parent) == []

    assert orphaned_attempts(attempt.parent) == [attempt]
    writer = store.open_attempt("toy", "k")
    assert not attempt.exists()
    assert left(writer.folder) == {writer.attempt, f"{writer.attempt}.lock"}


def test_a_committed_attempt_is_no_orphan_and_a_dead_one_beside_it_is(store: SnapshotStore) -> None:
    snapshot = made(store)
    (Path(snapshot.folder) / "attempt-dead").mkdir()
    (orphan,) = orphaned_attempts(Path(snapshot.folder))
    assert orphan.name == "attempt-dead"
    remove_attempt(orphan)
    assert snapshot.read().equals(TABLE)
    assert left(Path(snapshot.folder)) == {"manifest.json"}


def test_a_discarded_attempt_leaves_nothing_but_its_scratch(store: SnapshotStore) -> None:
    writer = fill(store.open_attempt("toy", "k"))
    (writer.scratch / "trials.jsonl").write_text("{}\n")
    store.discard(writer)
    assert left(writer.folder) == {"scratch"}
    again = store.open_attempt("toy", "k")
    assert (again.scratch / "trials.jsonl").read_text() == "{}\n"
    snapshot = store.commit(fill(again), **ABOUT)
    assert left(Path(snapshot.folder)) == {"manifest.json"}


@pytest.mark.parametrize("name", ["before-manifest", "after-manifest"])
def test_an_interrupted_commit_is_whole_or_not_there(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def interrupt(_stage: str, point: str) -> None:
        if point == name:
            raise KeyboardInterrupt

    monkeypatch.setattr(faults, "point", interrupt)
    writer = fill(store.open_attempt("toy", "k"))
    with pytest.raises(KeyboardInterrupt):
        store.commit(writer, **ABOUT)
    store.discard(writer)  # what the runner does whatever was raised
    found = store.find("toy", "k")
    assert (found is not None) == (name == "after-manifest")
    if found:
        assert found.read().equals(TABLE)


@pytest.mark.parametrize("damage", ["truncated", "longer", "removed"])
@pytest.mark.parametrize("name", [part_name(1), MODEL])
def test_a_damaged_snapshot_is_an_error_that_says_what_to_do(store: SnapshotStore, damage: str, name: str) -> None:
    path = made(store).path(name)
    if damage == "removed":
        path.unlink()
    elif damage == "truncated":
        os.truncate(path, path.stat().st_size - 1)
    else:
        path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(SnapshotCorrupt, match=name) as caught:
        store.find("toy", "k")
    assert "raymill gc --damaged" in caught.value.fix


def test_a_flipped_bit_is_found_by_the_full_check(store: SnapshotStore) -> None:
    snapshot = made(store)
    path = snapshot.path(part_name(0))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert damaged_files(Path(snapshot.folder), snapshot.manifest, full=True) == [part_name(0)]


def test_a_manifest_that_cannot_be_read_is_an_error_at_its_key_and_hides_no_other(store: SnapshotStore) -> None:
    good, bad = made(store, "good"), made(store, "bad")
    (Path(bad.folder) / "manifest.json").write_text('{"half": ')
    with pytest.raises(SnapshotCorrupt, match="not a manifest") as caught:
        store.find("toy", "bad")
    assert caught.value.fix
    assert list(store) == [good]


def test_files_that_changed_before_the_commit_are_not_committed(store: SnapshotStore) -> None:
    writer = fill(store.open_attempt("toy", "k"))
    os.truncate(writer.root / MODEL, 1)
    with pytest.raises(SnapshotCorrupt, match=r"model\.ubj"):
        store.commit(writer, **ABOUT)
    assert store.find("toy", "k") is None
