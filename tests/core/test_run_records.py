"""Run records that a power cut left empty or half: told, passed over, and never sent over whole ones."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from flows.cli import snapshots as maintenance
from flows.run import mlflow_replay
from flows.run.mlflow_replay import catch_up
from tasks.core.storage import run_records
from tasks.core.storage.store import SnapshotStore
from tasks.core.whole_files import write_whole
from tasks.engines import tracking
from tasks.settings import load_settings
from tests.support.toy_snapshots import made

BROKEN = [
    b"",
    b"\0\0\0\0",
    b'{"run_id": "20260101-0000',
    b"[]",
    b"null",
    b'{"stages": [3]}',
    b'{"stages": 3}',
    b"\xff\xfe",
]


@pytest.mark.parametrize("content", BROKEN)
def test_a_record_that_is_not_whole_is_named(content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert run_records.parsed("runs/a.json", content) is None
    assert "runs/a.json is not whole and is passed over" in caplog.text


@pytest.mark.parametrize("content", BROKEN)
def test_gc_snapshots_and_the_next_run_pass_it_over(tmp_path: Path, content: bytes) -> None:
    store = SnapshotStore(tmp_path / "snapshots")
    snapshot = made(store)
    runs = tmp_path / "runs"
    runs.mkdir()
    row = {"stage": "toy", "key": snapshot.key, "rows": 3}
    whole = {"run_id": "b", "stages": [row], "tracking": "sqlite:///elsewhere.db", "unrecorded": ["toy"]}
    (runs / "20260101-b.json").write_text(json.dumps(whole))
    (runs / "20260102-c.json").write_bytes(content)
    assert [record["run_id"] for record, _ in store.records()] == ["b"]
    settings = load_settings(overrides=[f"storage.root={tmp_path}", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"])
    assert maintenance.plan_gc(settings) == []
    assert "toy" in maintenance.lineage_graph(store)
    tracker = tracking.Tracker(client=None, uri="sqlite:///here.db", run_id="", experiment_id="")  # type: ignore[arg-type]
    assert catch_up(tmp_path, tracker, store) == []


@pytest.mark.parametrize(
    ("state", "alone", "told"), [("running", False, []), ("failed", False, ["b"]), ("running", True, ["b"])]
)
def test_the_record_of_a_run_that_may_be_at_work_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, alone: bool, told: list[str]
) -> None:
    (tmp_path / "runs").mkdir()
    record = {"run_id": "b", "state": state, "tracking": "sqlite:///here.db", "unrecorded": ["toy"]}
    (path := tmp_path / "runs" / "b.json").write_text(json.dumps(record))
    monkeypatch.setattr(mlflow_replay, "_catch_up", lambda record, *_: record.run_id)
    tracker = tracking.Tracker(client=None, uri="sqlite:///here.db", run_id="", experiment_id="")  # type: ignore[arg-type]
    lines = mlflow_replay.catch_up(tmp_path, tracker, SnapshotStore(tmp_path / "snapshots"), alone=alone)
    assert [line.partition(":")[0] for line in lines] == told
    assert json.loads(path.read_text())["unrecorded"] == ([] if told else ["toy"])


def test_a_synced_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "old", synced=True)
    write_whole(path, "é", synced=True)
    assert path.read_bytes() == "é".encode()
    assert list(tmp_path.iterdir()) == [path]
