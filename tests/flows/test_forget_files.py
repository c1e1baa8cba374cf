"""`raymill forget` on files that are no snapshots, and on snapshots made by hand."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pyarrow as pa
import pytest

from flows.cli.forget import named_users
from flows.forget import found, purge, sweep
from flows.forget.forget import forget
from flows.forget.models import Mlflow, Touched
from flows.forget.places import Places
from flows.forget.receipt import opened
from flows.forget.sought import Sought
from tasks.core.errors import InputError, RunError, SnapshotCorrupt, UserError
from tasks.core.locks import locked
from tasks.core.storage.store import SnapshotStore
from tasks.settings import Settings, load_settings
from tests.support.forgettable import HER, put, raw, reviews

TEXT = "A zanzibarite lamp, which I would not buy again for <money> or “love”."


@pytest.fixture
def sought() -> Sought:
    found = Sought(frozenset({HER}))
    found.learn(pl.DataFrame({"review_id": ["R77001"], "title": ["Bad"], "text": [TEXT]}))
    return found


def sweep_all(folder: Path, sought: Sought) -> dict[str, str]:
    return {str(f.relative_to(folder)): done for f, done, _ in sweep.swept([folder], [folder / "not"], sought)}


def test_each_kind_of_file_loses_what_betrays_the_user_and_nothing_else(tmp_path: Path, sought: Sought) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "not").mkdir()
    files = {
        "up.log": f"a line\nuser {HER} failed\nanother {HER}2\n",
        "shadow.jsonl": f'{{"review_id": "R77001"}}\n{{"text": {json.dumps(TEXT)}}}\n{{"review_id": "R770019"}}\n',
        "report.html": "<p>A zanzibarite lamp, which I would not buy again for &lt;money&gt; or “love”.</p>",
        "other.html": "<p>a lamp</p>",
        "runs/r.json": json.dumps({"run_id": "r", "failed": {"error": f"no user {HER} here"}, "wall_s": 3}),
        "not/list.json": HER,
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    table = pl.DataFrame({"user_id": [HER, "other"], "n": [1, 2]})
    table.write_parquet(tmp_path / "users.parquet")
    pl.DataFrame({"review_id": ["R77001", "R2"]}).write_parquet(tmp_path / "predictions.parquet")
    assert sweep_all(tmp_path, sought) == {
        "predictions.parquet": "1 rows removed",
        "report.html": "removed",
        "runs/r.json": "words replaced",
        "shadow.jsonl": "2 lines removed",
        "up.log": "1 lines removed",
        "users.parquet": "1 rows removed",
    }
    assert (tmp_path / "up.log").read_text() == f"a line\nanother {HER}2\n"
    assert json.loads((tmp_path / "runs/r.json").read_text())["failed"]["error"] == "no user [forgotten] here"
    assert pl.read_parquet(tmp_path / "users.parquet")["user_id"].to_list() == ["other"]
    assert sweep_all(tmp_path, sought) == {}  # once is enough


def test_a_database_keeps_no_deleted_page_with_the_user(tmp_path: Path, sought: Sought) -> None:
    file, long = tmp_path / "prefect.db", "y" * 20_000  # over several pages
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, message TEXT, data BLOB, n INTEGER)")
        rows = [(f"reject of {HER}: {TEXT}", b"\xff\xfe " + TEXT.encode(), 1), ("fine", b"\xff\0", 2)]
        database.executemany("INSERT INTO log (message, data, n) VALUES (?, ?, ?)", rows)
        database.execute("INSERT INTO log (message) VALUES (?)", (f"{long} {HER} {long}",))
        database.execute("INSERT INTO log (message) VALUES (?)", (f"{HER} was here",))
        database.commit()
        database.execute("DELETE FROM log WHERE message LIKE '%was here'")
        database.commit()
    assert HER.encode() in file.read_bytes()
    assert sweep_all(tmp_path, sought)["prefect.db"] == "3 values replaced"
    left = file.read_bytes()
    assert b"reject of" in left
    assert HER.encode() not in left
    assert b"zanzibarite" not in left
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT message, n FROM log WHERE n = 2").fetchall() == [("fine", 2)]


def test_a_busy_database_is_said_not_to_be_reached(
    tmp_path: Path, sought: Sought, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "WAIT_S", 0.05)
    file = tmp_path / "prefect.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("CREATE TABLE log (message TEXT)")
        other.execute("INSERT INTO log VALUES (?)", (HER,))
        other.execute("BEGIN IMMEDIATE")
        ((_, done, helped),) = sweep.swept([tmp_path], [], sought)
    assert (helped, "locked" in done) == (False, True)


@pytest.mark.parametrize("name", ["7", "20000", "champion", "love"])
def test_a_name_that_is_a_number_or_a_word_is_sought_in_tables_alone(tmp_path: Path, name: str) -> None:
    common = Sought(frozenset({name}))
    (tmp_path / "up.log").write_text(f"{name} of {name} stages\n")
    pl.DataFrame({"user_id": [name, f"{name}7"]}).write_parquet(tmp_path / "users.parquet")
    assert sweep_all(tmp_path, common) == {"users.parquet": "1 rows removed"}
    assert common.common_names == 1


def test_a_file_of_an_unknown_kind_is_told_and_kept(tmp_path: Path, sought: Sought) -> None:
    (tmp_path / "notes.tsv").write_text(HER)
    ((_, why, helped),) = sweep.swept([tmp_path], [], sought)
    assert (helped, "look at it yourself" in why, (tmp_path / "notes.tsv").exists()) == (False, True, True)


def test_the_raw_input_is_not_touched_wherever_it_is_and_what_no_reader_sees_goes(tmp_path: Path) -> None:
    root = tmp_path / "data"
    raw_files = [root / "sample" / "a.tsv", root / "runs" / "mine" / "b.tsv", root / "notes.html"]
    for file in raw_files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{HER}\t{TEXT}\n")
    pl.DataFrame({"user_id": [HER]}).write_parquet(root / "sample" / "c.parquet")
    before = {file: file.read_bytes() for file in (*raw_files, root / "sample" / "c.parquet")}
    store = SnapshotStore(root / "snapshots")
    put(store, "ingest", [reviews(HER)], (raw("source"),))
    half, torn = store.root / "clean" / "killed" / "attempt-1", store.root / "clean" / "torn" / "attempt-1"
    for folder in (half, torn):
        folder.mkdir(parents=True)
        (folder / "part-00000.parquet").write_text(HER)
    (torn.parent / "manifest.json").write_text("{")
    inputs = f"data.input=[{root / 'sample'}, {root / 'runs' / 'mine'}]"
    words = [f"storage.root={root}", f"tracking.uri=sqlite:///{tmp_path}/none.db", inputs]
    receipt = forget(load_settings(overrides=words), [HER], lambda _: None)
    assert (receipt.found, receipt.finished) == (1, True)
    assert {file: file.read_bytes() for file in before} == before
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    words = [f"storage.root={tmp_path / 'data'}", f"tracking.uri=sqlite:///{tmp_path}/none.db"]
    return load_settings(overrides=[*words, f"data.input={tmp_path / 'in'}"])


def files_in(folder: Path) -> dict[Path, bytes]:
    """All files but locks, which are empty."""
    return {path: content for path in folder.rglob("*") if path.is_file() and (content := path.read_bytes())}


@pytest.mark.parametrize("user", [HER, "NOBODY-7"])
@pytest.mark.parametrize("damage", ["gone", "cut short", "other bytes"])
def test_whose_a_damaged_snapshot_is_nobody_can_tell_so_nothing_is_removed(
    settings: Settings, user: str, damage: str
) -> None:
    store = SnapshotStore(settings.storage.path / "snapshots")
    put(store, "ingest", [reviews(HER), reviews("b")], (raw("source"),))
    put(store, "count-words", [pa.table({"token": ["a"]})], (raw("ingest"),))
    (file,) = store.root.glob("ingest/*/attempt-*/part-00001.parquet")
    whole = file.read_bytes()
    file.unlink()
    if damage != "gone":
        file.write_bytes(whole[:50] if damage == "cut short" else bytes(len(whole)))
    before = files_in(settings.storage.path)
    with pytest.raises(SnapshotCorrupt, match="gc --damaged"):
        forget(settings, [user], lambda _: None)
    assert files_in(settings.storage.path) == before


@pytest.mark.parametrize("lock", ["register.lock", "rehearsal/.lock", "forget.lock"])
def test_nothing_begins_while_a_model_is_registered_or_a_rehearsal_is_at_work(settings: Settings, lock: str) -> None:
    root = settings.storage.path
    put(SnapshotStore(root / "rehearsal" / "snapshots"), "ingest", [reviews(HER)], (raw("source"),))
    with locked(root / lock):
        before = files_in(root)
        with pytest.raises(RunError, match="is at work"):
            forget(settings, [HER], lambda _: None)
        assert files_in(root) == before
    forget(settings, [HER], lambda _: None)
    assert not (root / "rehearsal").exists()


def test_a_damaged_rehearsal_is_told_before_anything_is_removed(settings: Settings) -> None:
    store = SnapshotStore(settings.storage.path / "rehearsal" / "snapshots")
    put(store, "ingest", [reviews("b")], (raw("source"),))
    put(SnapshotStore(settings.storage.path / "snapshots"), "ingest", [reviews(HER)], (raw("source"),))
    next(store.root.glob("ingest/*/attempt-*/part-00000.parquet")).unlink()
    before = files_in(settings.storage.path)
    with pytest.raises(RunError, match="remove the folder"):
        forget(settings, [HER], lambda _: None)
    assert files_in(settings.storage.path) == before


def test_a_name_that_nothing_has_is_listed_and_dead_attempts_go_and_are_told(settings: Settings) -> None:
    store = SnapshotStore(settings.storage.path / "snapshots")
    put(store, "ingest", [reviews(HER)], (raw("source"),))
    before = files_in(store.root)
    half = store.root / "clean" / "killed" / "attempt-1"
    half.mkdir(parents=True)
    (half / "part-00000.parquet").write_text("half")
    receipt = forget(settings, ["NOBODY-7"], lambda _: None)
    assert (receipt.finished, receipt.found, receipt.snapshots) == (True, 0, [])
    assert receipt.files == [{"file": "main: 1 unfinished snapshots", "what": "removed"}]
    assert files_in(store.root) == before


def test_parts_without_the_users_stay_for_the_next_run_and_the_others_go(store: SnapshotStore) -> None:
    put(store, "ingest", [reviews("a", HER), reviews("b"), reviews("c")], (raw("source"),))
    put(store, "count-words", [pa.table({"token": ["zanzibarite"]})], (raw("ingest"),))
    put(store, "items", [pa.table({"item_id": ["i"]})], (raw("source"),))
    sought = Sought(frozenset({HER, "reject-2"}))
    seen = found.find(store, sought)
    assert seen.touched == ["count-words-key", "ingest-key"]  # what was made from others first
    assert (seen.parts, seen.sources) == ({"ingest part 0", "ingest part 2"}, {"file-0.csv", "file-2.csv"})
    assert (seen.reviews(HER), seen.reviews("b")) == (1, 0)
    assert sought.reviews == {f"R-{HER}"}
    for key in seen.touched:
        purge.keep_rest(seen, seen.manifests[key])
        purge.keep_rest(seen, seen.manifests[key])  # a killed call does it twice
        purge.remove(store, seen.manifests[key])
    out = store.open_attempt("ingest", "tonight")
    assert out.reuse_part("ingest part 0", 0) is None
    assert out.reuse_part("ingest part 2", 0) is None
    assert out.reuse_part("ingest part 1", 0) is not None
    assert pl.read_parquet(out.files()[0])["user_id"].to_list() == ["b"]
    assert {s.stage for s in store} == {"ingest", "items"}
    assert found.find(store, sought).files == {}


def test_what_no_reader_finds_is_removed_but_for_what_a_living_process_writes(store: SnapshotStore) -> None:
    half = store.root / "clean" / "killed" / "attempt-1"
    half.mkdir(parents=True)
    (half / "part-00000.parquet").write_text(HER)
    writer = store.open_attempt("ingest", "alive")
    with pytest.raises(RunError, match="a run is at work on the stage ingest"):
        found.check_idle(store)
    assert purge.clear_leftovers(store) == 1
    assert writer.root.exists()
    assert not half.exists()
    writer.lock.close()
    found.check_idle(store)


def test_an_unfinished_receipt_for_the_same_users_is_gone_on_with(tmp_path: Path) -> None:
    first, earlier = opened(tmp_path, ["h1", "h2"])
    first.save(tmp_path)
    assert not earlier
    again, earlier = opened(tmp_path, ["h2", "h1"])
    assert (again, earlier) == (first, True)
    assert opened(tmp_path, ["h1"])[1] is False
    first.finished = True
    first.save(tmp_path)
    assert opened(tmp_path, ["h1", "h2"])[1] is False


def test_users_are_named_as_ingest_names_them_and_a_wrong_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "users.txt"
    file.write_text('\ufeffA1 \n\n="0012"\n12.0\nA1\n', encoding="utf-8")
    assert named_users(["A9"], str(file)) == ["A9", "A1", "0012", "12"]
    with pytest.raises(UserError, match="no user is named"):
        named_users([" "], None)
    with pytest.raises(InputError, match="cannot be read"):
        named_users([], str(tmp_path / "none.txt"))
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        named_users([], str(tmp_path / "bad.txt"))


def test_all_copies_of_a_removed_version_go_those_of_servers_too(tmp_path: Path) -> None:
    for folder in ("score/models/toy-1-r1", "score/models/toy-1-x.draft", "score/models/toy-12-r2", "models/toy-1-r1"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("about.json", "model.ubj", "example.parquet"):
            (tmp_path / folder / name).write_text("")
    client = SimpleNamespace(delete_model_version=lambda *_: None)
    settings = load_settings(overrides=[f"storage.root={tmp_path}"])
    Mlflow(settings, "sqlite:///none", client).remove(Touched("toy", "1", (), "", SimpleNamespace(run_id=None)))
    assert [file.parent.name for file in tmp_path.rglob("example.parquet")] == ["toy-12-r2"]


def test_the_predictions_of_each_batch_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "predictions"
    for batch in (folder, folder / "batch-000001", folder / "batch-000002"):
        batch.mkdir()
        (batch / "predictions.json").write_text("{}")
    (folder / "batch-000003").mkdir()
    found = Places(load_settings(overrides=[f"storage.root={tmp_path}"])).exported
    assert [about.parent.name for about in found] == ["predictions", "batch-000001", "batch-000002"]
