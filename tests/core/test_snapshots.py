"""Snapshots: only manifests are trusted, the first commit stands, and a digest covers content alone."""

from __future__ import annotations

from datetime import UTC
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import RowsLost, SnapshotCorrupt
from tasks.core.snapshot_files import DRAFT, FileSink, part_name
from tasks.core.snapshots import InputRef, Snapshot
from tasks.core.storage.store import SnapshotStore
from tests.support.toy_snapshots import ABOUT, MODEL, TABLE, assert_whole, fill, left, made


def test_what_was_committed_is_read_back_in_row_order(store: SnapshotStore) -> None:
    snapshot = made(store)
    assert store.find("toy", "k") == snapshot
    assert snapshot.read().equals(TABLE)
    assert snapshot.read(columns=["text"]).equals(TABLE.select(["text"]))
    assert snapshot.rows() == 3
    assert snapshot.path(MODEL).read_bytes() == b"trees"
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


@pytest.mark.parametrize("changed", ["nothing", "row", "order", "split", "counts", "facts", "bytes", "name", "stage"])
def test_other_content_has_another_digest(store: SnapshotStore, changed: str) -> None:
    writer = store.open_attempt("toy2" if changed == "stage" else "toy", "k2")
    table = TABLE.set_column(0, "id", [[1, 2, 4]]) if changed == "row" else TABLE
    if changed == "order":
        table = table.take([1, 0, 2])
    cut = 1 if changed == "split" else 2
    writer.write_table(part_name(0), table.slice(0, cut))
    writer.write_table(part_name(1), table.slice(cut))
    writer.write_bytes("other.ubj" if changed == "name" else MODEL, b"tree5" if changed == "bytes" else b"trees")
    writer.count(words=5 if changed == "counts" else 4)
    writer.fact(best=0.6 if changed == "facts" else 0.5)
    same = store.commit(writer, **ABOUT).digest == made(store).digest
    assert same == (changed == "nothing")


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


def test_a_file_that_is_not_in_the_manifest_is_not_handed_out(store: SnapshotStore) -> None:
    snapshot = made(store)
    (snapshot.root / "stray").write_text("not ours")
    with pytest.raises(SnapshotCorrupt, match="stray"):
        snapshot.path("stray")


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
                # Pandas adds metadata to a schema, which is not content.
                writer.write_table(part_name(index), table.replace_schema_metadata({"pandas": key}), SCHEMA)
            snapshot = store.commit(writer, **ABOUT)
            digests.add(snapshot.digest)
            assert snapshot.read().equals(pa.concat_tables(tables))
            assert snapshot.read().schema.metadata is None
            assert snapshot.rows() == sum(map(len, parts))
    assert len(digests) == 1


def test_a_file_has_its_name_only_when_it_is_whole(store: SnapshotStore, monkeypatch: pytest.MonkeyPatch) -> None:
    out = store.open_attempt("toy", "k")
    entry = out.sink.write_table(part_name(0), TABLE)
    before = (out.root / part_name(0)).read_bytes()

    def batches() -> Any:
        yield TABLE
        assert (out.root / part_name(0)).read_bytes() == before  # another worker at the same file
        raise InterruptedError

    with pytest.raises(InterruptedError):
        out.sink.write_batches(part_name(0), batches(), TABLE.schema)
    assert (out.root / part_name(0)).read_bytes() == before
    assert [path.name for path in out.root.iterdir()] == [entry.name]


def test_what_a_worker_left_half_written_is_not_in_the_snapshot(store: SnapshotStore) -> None:
    out = fill(store.open_attempt("toy", "k"))
    (out.root / f"part-00007.parquet.0123{DRAFT}").write_bytes(b"half")
    committed = store.commit(out, **ABOUT)
    assert_whole(committed)


@given(cuts=st.lists(st.integers(0, 300), max_size=4), rows=st.integers(0, 300))
def test_a_file_written_in_batches_is_the_same_however_they_are_cut(cuts: list[int], rows: int) -> None:
    table = pa.table({"n": range(rows), "text": [f"t{i % 7}" for i in range(rows)]})
    ends = [0, *sorted(min(cut, rows) for cut in cuts), rows]
    pieces = [table.slice(start, end - start) for start, end in pairwise(ends)]
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.core.snapshot_files.ROW_GROUP_ROWS", 64)
        whole = FileSink(folder).write_batches("a.parquet", [table], table.schema)
        cut = FileSink(folder).write_batches("b.parquet", pieces, table.schema)
        assert (cut.sha256, cut.rows) == (whole.sha256, rows)
        assert pa.parquet.read_table(f"{folder}/b.parquet").equals(table)
