"""Snapshots: only a manifest is believed, the first commit stands, and a digest is over content alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core import faults
from tasks.core.errors import RowsLost, SnapshotCorrupt
from tasks.core.settings import PROJECT
from tasks.core.snapshots import (
    InputRef,
    Snapshot,
    SnapshotStore,
    SnapshotWriter,
    damaged_files,
    orphaned_attempts,
    part_name,
    remove_attempt,
)

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


def fill(writer: SnapshotWriter, table: pa.Table = TABLE) -> SnapshotWriter:
    writer.write_table(part_name(0), table.slice(0, 2))
    writer.write_table(part_name(1), table.slice(2))
    writer.write_bytes("model.ubj", b"trees")
    writer.count(words=4)
    writer.fact(best=0.5)
    return writer


def made(store: SnapshotStore, key: str = "k", stage: str = "toy", **about: Any) -> Snapshot:
    return store.commit(fill(store.open_attempt(stage, key)), **{**ABOUT, **about})


def left(folder: Path) -> set[str]:
    """Names at one key, but for the committed attempt."""
    manifest = folder / "manifest.json"
    committed = Snapshot("", "", "", str(folder)).manifest.attempt if manifest.exists() else ""
    return {p.name for p in folder.iterdir()} - {committed}


@contextmanager
def another_process(root: Path, stage: str, key: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has an open attempt at the key, for as long as the block lasts."""
    code = (
        "import sys; from pathlib import Path; from tasks.core.snapshots import SnapshotStore\n"
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


def test_what_was_committed_is_read_back_in_row_order(store: SnapshotStore) -> None:
    snapshot = made(store)
    assert store.find("toy", "k") == snapshot
    assert snapshot.read().equals(TABLE)
    assert snapshot.read(columns=["text"]).equals(TABLE.select(["text"]))
    assert snapshot.rows() == 3
    assert snapshot.path("model.ubj").read_bytes() == b"trees"
    assert snapshot.facts == {"best": 0.5}
    assert snapshot.manifest.counts == {"words": 4}
    assert snapshot.manifest.schemas == {"": ["id: int64", "text: string"]}
    assert left(Path(snapshot.folder)) == {"manifest.json"}


def test_parts_are_in_row_order_whichever_was_written_first(store: SnapshotStore) -> None:
    writer = store.open_attempt("toy", "k")
    for index in (1, 0):
        writer.write_table(part_name(index), pa.table({"id": [index]}))
    assert [f.name for f in writer.files()] == [part_name(0), part_name(1)]
    assert store.commit(writer, **ABOUT).read()["id"].to_pylist() == [0, 1]


def test_tables_of_a_snapshot_are_apart(store: SnapshotStore) -> None:
    writer = fill(store.open_attempt("toy", "k"))
    writer.write_table(part_name(0, "rejects"), pa.table({"reason": ["odd"]}))
    snapshot = store.commit(writer, **ABOUT)
    assert snapshot.rows("rejects") == 1
    assert snapshot.read("rejects")["reason"].to_pylist() == ["odd"]
    assert snapshot.rows() == 3


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


def test_the_digest_is_over_content_alone(store: SnapshotStore) -> None:
    one = made(store, "k1")
    other = made(
        store,
        "k2",
        seconds={"run": 99.0},
        committed_at="2030-01-01T00:00:00+00:00",
        code={"source": "other"},
        config={"a": 1},
    )
    assert one.manifest.attempt != other.manifest.attempt
    assert one.digest == other.digest


@pytest.mark.parametrize("changed", ["row", "order", "split", "counts", "facts", "bytes", "name", "stage"])
def test_other_content_has_another_digest(store: SnapshotStore, changed: str) -> None:
    writer = store.open_attempt("toy2" if changed == "stage" else "toy", "k2")
    table = TABLE.set_column(0, "id", [[1, 2, 4]]) if changed == "row" else TABLE
    if changed == "order":
        table = table.take([1, 0, 2])
    cut = 1 if changed == "split" else 2
    writer.write_table(part_name(0), table.slice(0, cut))
    writer.write_table(part_name(1), table.slice(cut))
    writer.write_bytes("other.ubj" if changed == "name" else "model.ubj", b"tree5" if changed == "bytes" else b"trees")
    writer.count(words=5 if changed == "counts" else 4)
    writer.fact(best=0.6 if changed == "facts" else 0.5)
    assert store.commit(writer, **ABOUT).digest != made(store).digest


def test_notes_are_no_part_of_the_snapshot(store: SnapshotStore) -> None:
    writer = fill(store.open_attempt("toy", "k2"))
    writer.note(resumed=3)
    snapshot = store.commit(writer, **ABOUT)
    assert snapshot.digest == made(store).digest
    assert "resumed" not in snapshot.manifest.model_dump_json()


@pytest.mark.parametrize(("rejected", "repeated", "whole"), [(2, 1, True), (1, 1, False), (2, 0, False), (3, 1, False)])
def test_no_row_is_lost_in_silence(store: SnapshotStore, rejected: int, repeated: int, whole: bool) -> None:
    writer = fill(store.open_attempt("toy", "k"))  # 3 rows out
    writer.write_table(part_name(0, "rejects"), pa.table({"reason": ["odd"] * rejected}))
    writer.count(rows_in=6, repeated=repeated)
    if whole:
        writer.check_rows()
        return
    with pytest.raises(RowsLost, match=f"6 rows in, but 3 out . {rejected} rejected . {repeated} repeated"):
        writer.check_rows()


def test_rows_of_all_tables_but_the_rejects_are_rows_out(store: SnapshotStore) -> None:
    writer = store.open_attempt("split", "k")
    for name, rows in (("train", 5), ("test", 2)):
        writer.write_table(part_name(0, name), pa.table({"id": range(rows)}))
    writer.count(rows_in=7)
    writer.check_rows()


@pytest.mark.parametrize("damage", ["truncated", "longer", "removed"])
@pytest.mark.parametrize("name", [part_name(1), "model.ubj"])
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
    os.truncate(writer.root / "model.ubj", 1)
    with pytest.raises(SnapshotCorrupt, match=r"model\.ubj"):
        store.commit(writer, **ABOUT)
    assert store.find("toy", "k") is None


def test_a_file_that_is_not_in_the_manifest_is_not_handed_out(store: SnapshotStore) -> None:
    snapshot = made(store)
    (snapshot.root / "stray").write_text("not ours")
    with pytest.raises(SnapshotCorrupt, match="stray"):
        snapshot.path("stray")


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


def test_lineage_is_all_that_a_snapshot_was_made_from(store: SnapshotStore) -> None:
    def refs(*made_from: Snapshot) -> tuple[InputRef, ...]:
        return tuple(InputRef(name=s.stage, stage=s.stage, key=s.key, digest=s.digest) for s in made_from)

    source = InputRef(name="source", stage="source", key="", digest="d")
    raw = made(store, "1", "ingest", inputs=(source,))
    reviews = made(store, "2", "clean", inputs=refs(raw))
    counts, tokens = (made(store, k, s, inputs=refs(reviews)) for k, s in (("3", "count"), ("4", "tokenize")))
    table = made(store, "5", "features", inputs=refs(reviews, counts, tokens))
    made(store, "6", "clean")
    assert store.lineage([table.key]) == {"1", "2", "3", "4", "5"}
    assert store.lineage([tokens.key, "gone"]) == {"1", "2", "4"}
    assert store.lineage([]) == set()


COLUMNS = {
    "text": (pa.string(), st.text(st.characters(codec="utf-8"), max_size=5)),
    "count": (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "score": (pa.float64(), st.floats(allow_nan=False)),
    "verified": (pa.bool_(), st.booleans()),
    "when": (
        pa.timestamp("ms", tz="UTC"),
        st.datetimes(timezones=st.just(UTC)).map(lambda t: t.replace(microsecond=0)),
    ),
    "ids": (pa.list_(pa.int32()), st.lists(st.integers(0, 50_256), max_size=3)),
}
SCHEMA = pa.schema([(name, kind) for name, (kind, _) in COLUMNS.items()])
ROWS = st.lists(st.fixed_dictionaries({name: st.none() | values for name, (_, values) in COLUMNS.items()}), max_size=9)


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(ROWS, min_size=1, max_size=4), backwards=st.booleans())
def test_any_table_comes_back_as_it_went_in_and_with_the_same_digest(
    parts: list[list[dict[str, Any]]], backwards: bool
) -> None:
    tables = [pa.Table.from_pylist(rows, schema=SCHEMA) for rows in parts]
    order = list(enumerate(tables))
    digests = set()
    with TemporaryDirectory() as root:
        store = SnapshotStore(Path(root))
        for key, given_order in (("1", order), ("2", order[::-1] if backwards else order)):
            writer = store.open_attempt("toy", key)
            for index, table in given_order:
                # Pandas leaves notes in a schema; they are no content.
                writer.write_table(part_name(index), table.replace_schema_metadata({"pandas": key}), SCHEMA)
            snapshot = store.commit(writer, **ABOUT)
            digests.add(snapshot.digest)
            assert snapshot.read().equals(pa.concat_tables(tables))
            assert snapshot.read().schema.metadata is None
            assert snapshot.rows() == sum(map(len, parts))
    assert len(digests) == 1
