"""`raymill diff`: two snapshots of a stage, or two runs, and what makes the difference."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flows.compare.named import Names
from flows.compare.snapshots import compare_snapshots
from flows.run.record import RunRecord, StageRow
from tasks.core.snapshots import InputRef, Manifest, Snapshot
from tasks.core.storage.store import SnapshotStore
from tests.support.command import Done, raymill
from tests.support.toy_snapshots import ABOUT

OLD = pa.table({"id": ["a", "b", "c"], "stars": [1.0, 2.0, 3.0], "gone": [1, 2, 3], "votes": pa.array([1, 2, 3])})
NEW = pa.table(
    {"id": ["a", "b", "c", "d"], "stars": [4.0, 5.0, 5.0, 5.0], "new": [1] * 4, "votes": pa.array([1.0] * 4)}
)


def commit(
    store: SnapshotStore,
    stage: str,
    key: str,
    table: pa.Table = OLD,
    read: tuple[Snapshot, ...] = (),
    facts: dict[str, Any] | None = None,
    model: bytes = b"trees",
    **about: Any,
) -> Snapshot:
    writer = store.open_attempt(stage, key)
    writer.write_table("part-00000.parquet", table)
    writer.write_table("rejects/part-00000.parquet", pa.table({"reason": ["odd"]}))
    writer.write_bytes("model.ubj", model)
    writer.count(rows_in=table.num_rows)
    writer.fact(**(facts or {}))
    inputs = tuple(InputRef(name=s.stage, stage=s.stage, key=s.key, digest=s.digest) for s in read)
    return store.commit(writer, **{**ABOUT, "inputs": inputs, **about})


def record(store: SnapshotStore, run_id: str, *snapshots: Snapshot, **about: Any) -> None:
    rows = [StageRow(s.stage, rows=s.rows(), digest=s.digest, key=s.key, wall_s=2.0) for s in snapshots]
    path = store.root.parent / "runs" / f"{run_id}.json"
    path.parent.mkdir(exist_ok=True)
    stored = RunRecord(run_id=run_id, state="completed", stages=[*rows, StageRow("register")], **about)
    path.write_text(json.dumps(stored.to_json()))


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    """Two runs: the second has another setting of clean, and so other splits; its words are the same."""
    store = SnapshotStore(tmp_path / "snapshots")
    code = {"source": "s", "version": "1", "polars": "2.0"}
    raw = commit(store, "ingest", "ingest-1")
    old = commit(store, "clean", "clean-1", OLD, (raw,), {"best": 0.5, "by": {"x": 1}}, config={"n": 1}, code=code)
    new = commit(
        store,
        "clean",
        "clean-2",
        NEW,
        (raw,),
        {"best": 0.25, "by": {"x": 1}},
        b"more trees",
        config={"n": 2},
        code={**code, "polars": "2.1"},
    )
    words = [commit(store, "count-words", f"words-{i}", OLD, (side,)) for i, side in enumerate((old, new))]
    splits = [commit(store, "split", f"split-{i}", t, (side,)) for i, t, side in ((1, OLD, old), (2, NEW, new))]
    losses = [{"rmse": {"tuned": loss, "mean": 1.25}} for loss in (1.0, 0.75)]
    record(store, "20240101-000000-aaaaaa", raw, old, words[0], splits[0], metrics=losses[0], decision="1 is champion")
    record(store, "20240102-000000-bbbbbb", raw, new, words[1], splits[1], metrics=losses[1], decision="2 is champion")
    return store


def diff(store: SnapshotStore, *words: str) -> Done:
    return raymill("diff", *words, "--set", f"storage.root={store.root.parent}", COLUMNS="80")


def as_json(store: SnapshotStore, *words: str) -> Any:
    done = diff(store, *words, "--json", "-")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_two_snapshots_are_compared_in_rows_columns_values_files_and_origin(store: SnapshotStore) -> None:
    said = as_json(store, "clean@20240101", "clean@20240102")
    assert not said["same"]
    assert [change["says"] for change in said["changes"]] == ["setting clean.n: 1 → 2", "polars 2.0 → 2.1"]
    main, rejects = said["tables"]
    assert (main["rows"], main["added"], main["dropped"]) == ([3, 4], ["new"], ["gone"])
    assert main["retyped"] == {"votes": ["int64", "double"]}
    assert rejects["same"]
    shifts = {shift["column"]: shift for shift in main["shifts"]}
    assert set(shifts) == {"id", "stars", "votes"}
    assert main["shifts"][0]["column"] == "stars"
    assert (shifts["stars"]["a"]["mean"], shifts["stars"]["b"]["mean"]) == (2, 4.75)
    assert {value["name"]: (value["a"], value["b"]) for value in said["values"]} == {
        "rows_in": (3, 4),
        "best": (0.5, 0.25),
    }
    assert said["files"] == ["model.ubj"]


def test_what_is_printed_says_the_same_in_80_columns(store: SnapshotStore) -> None:
    said = diff(store, "clean@20240101", "clean@20240102").stdout
    for line in (
        "Main table: 3 → 4 rows",
        "new columns: new",
        "dropped columns: gone",
        "votes: int64 → double",
        "setting clean.n: 1 → 2",
        "polars 2.0 → 2.1",
        "best: 0.5 → 0.25",
        "model.ubj",
        "mean 2 → 4.75",
        "The same: table rejects",
    ):
        assert line in said
    assert max(map(len, said.splitlines())) <= 80


def test_a_snapshot_is_named_in_many_ways(store: SnapshotStore) -> None:
    names = Names(store)
    clean = store.find("clean", "clean-2")
    assert clean is not None
    for name in (
        *(clean.digest, clean.digest[:8], f"clean@{clean.digest[:8]}", "clean-2", "clean@clean-2"),
        *("clean@20240102-000000-bbbbbb", "clean@20240102"),
    ):
        found = names.find(name)
        assert isinstance(found, Manifest)
        assert found.key == "clean-2"
    run = names.find("20240102")
    assert isinstance(run, RunRecord)
    assert run.run_id == "20240102-000000-bbbbbb"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("clean@1234", "clean-1"), "there is no such snapshot and no such run"),
        (("abc", "clean-1"), "give at least 4 characters"),
        (("clean-1", "split-1"), "snapshots of different stages"),
        (("clean-1", "20240101"), "a run and a snapshot cannot be compared"),
        (("clean-1",), "there is nothing to compare it with"),
        (("2024", "20240101"), "this may be 20240102-000000-bbbbbb, 20240101-000000-aaaaaa"),
        (("clean", "clean-1"), "this may be clean@"),
        (("tune@20240101", "clean-1"), "the run has no snapshot of tune"),
    ],
)
def test_a_wrong_name_is_refused_with_what_to_do(store: SnapshotStore, words: tuple[str, ...], expected: str) -> None:
    done = diff(store, *words)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "→" in done.stderr


def test_the_error_for_different_stages_names_both(store: SnapshotStore) -> None:
    said = diff(store, "clean-1", "split-1").stderr
    assert "clean@" in said
    assert "split@" in said


def test_the_same_snapshot_does_not_differ(store: SnapshotStore) -> None:
    assert "The same content." in diff(store, "clean-1", "clean-1").stdout
    assert as_json(store, "words-0", "words-1")["same"]


def test_without_names_the_last_two_runs_are_compared(store: SnapshotStore) -> None:
    record(store, "20240103-000000-cccccc", *(s for s in store if s.key in ("ingest-1", "clean-2")))
    said = as_json(store)
    assert (said["a"]["run_id"], said["b"]["run_id"]) == ("20240102-000000-bbbbbb", "20240103-000000-cccccc")
    assert "Only in A: count-words, split" in diff(store).stdout


def test_two_runs_are_compared_stage_by_stage(store: SnapshotStore) -> None:
    said = as_json(store, "20240101", "20240102")
    stages = {pair["stage"]: pair for pair in said["stages"]}
    assert [name for name, pair in stages.items() if pair["same"]] == ["ingest", "count-words", "register"]
    assert [change["says"] for change in stages["clean"]["changes"]] == ["setting clean.n: 1 → 2", "polars 2.0 → 2.1"]
    (change,) = stages["split"]["changes"]
    assert (change["kind"], change["name"]) == ("input", "clean")
    assert (stages["clean"]["a"]["rows"], stages["clean"]["b"]["rows"]) == (3, 4)
    assert said["losses"]["rmse"] == {"tuned": [1.0, 0.75], "mean": [1.25, 1.25]}
    assert said["b"]["decision"] == "2 is champion"
    printed = diff(store, "20240101", "20240102").stdout
    for line in ("setting clean.n: 1 → 2", "made from another clean", "1.0000 → 0.7500", "2 is champion", "3 → 4"):
        assert line in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_of_a_run_whose_snapshots_were_removed_rows_and_digests_are_still_compared(store: SnapshotStore) -> None:
    shutil.rmtree(store.root / "clean" / "clean-1")
    said = as_json(store, "20240101", "20240102")
    clean = next(pair for pair in said["stages"] if pair["stage"] == "clean")
    assert clean["removed"]
    assert not clean["same"]
    assert "a snapshot was removed" in diff(store, "20240101", "20240102").stdout
    refused = diff(store, "clean@20240101", "clean@20240102")
    assert refused.returncode == 2
    assert "this snapshot was removed" in refused.stderr


def test_all_shows_what_is_left_out_otherwise(store: SnapshotStore) -> None:
    many = {f"x{i:02}": [float(i), 2.0] for i in range(20)}
    commit(store, "split", "wide-1", pa.table(many))
    commit(store, "split", "wide-2", pa.table({name: [*values, 9.0] for name, values in many.items()}))
    short, full = diff(store, "wide-1", "wide-2").stdout, diff(store, "wide-1", "wide-2", "--all").stdout
    assert "10 more differ: --all shows them" in short
    assert all(name in full for name in many)
    assert "--all" not in full


def test_values_that_differ_little_are_printed_so_that_they_differ(store: SnapshotStore) -> None:
    ids = list(range(100))
    commit(store, "split", "near-1", facts={"loss": 1.00001, "ids": ids})
    commit(store, "split", "near-2", facts={"loss": 1.00002, "ids": [*ids, 100]})
    said = diff(store, "near-1", "near-2").stdout
    assert "loss: 1.00001 → 1.00002" in said
    assert "… differ further on" in said


def test_a_damaged_snapshot_is_an_error_without_traceback(store: SnapshotStore) -> None:
    one, two = (store.find("clean", key) for key in ("clean-1", "clean-2"))
    assert one is not None
    assert two is not None
    one.files()[0].unlink()
    done = diff(store, "clean-1", "clean-2")
    assert done.returncode == 1
    assert "raymill gc --damaged" in done.stderr


def test_a_table_that_one_side_lacks_has_no_rows_there(store: SnapshotStore) -> None:
    writer = store.open_attempt("clean", "clean-3")
    writer.write_table("extra/part-00000.parquet", OLD)
    three = store.commit(writer, **ABOUT)
    one = store.find("clean", "clean-1")
    assert one is not None
    tables = {table.name: table.rows for table in compare_snapshots(store, one.manifest, three.manifest).tables}
    assert tables == {"": (3, None), "rejects": (1, None), "extra": (None, 3)}
    assert "Table extra: – → 3 rows" in diff(store, "clean-1", "clean-3").stdout
