"""What MLflow refuses does not fail a run: its work is committed, and a warning names what is not recorded."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from flows.run.mlflow_replay import Outbox
from flows.run.record import RunRecord
from tasks.core.storage.store import SnapshotStore
from tasks.engines.tracking import Tracker
from tasks.settings import load_settings
from tests.support.mlflow_database import new_database


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    new_database(tmp_path / "m.db")
    config = load_settings(overrides=[f"tracking.uri=sqlite:///{tmp_path}/m.db"]).tracking
    return Outbox(Tracker.open(config, "a night", {}), SnapshotStore(tmp_path / "snapshots"))


def test_a_run_that_is_deleted_under_way_is_told_and_the_work_goes_on(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = outbox.tracker
    tracker.client.delete_run(tracker.run_id)
    with caplog.at_level(logging.WARNING):
        assert outbox.send("clean", lambda: tracker.log(tracker.run_id, metrics={"rows": 3}), RunRecord)
    assert "clean is not recorded in MLflow: its MLflow run was deleted" in caplog.text
    assert f"`mlflow runs restore --run-id {tracker.run_id}`" in caplog.text
    assert outbox.waiting == []
    assert outbox.send("split", lambda: tracker.log(tracker.run_id, metrics={"rows": 3}), RunRecord)
    assert "split is not recorded" not in caplog.text  # said once
    child = tracker.child("refit")  # what has a run of its own is recorded as before
    assert outbox.send("refit", lambda: tracker.log(child, metrics={"loss": 0.5}), RunRecord)
    assert tracker.client.get_run(child).data.metrics == {"loss": 0.5}


def test_what_waits_and_is_refused_does_not_block_the_rest(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    tracker = outbox.tracker
    outbox.waiting.append("end")
    tracker.client.delete_run(tracker.run_id)
    failed = RunRecord(state="failed")
    assert outbox.send("report", lambda: tracker.log(tracker.run_id, tags={"a": "b"}), lambda: failed)
    assert outbox.waiting == []


def test_a_mistake_of_our_own_is_no_refusal(outbox: Outbox) -> None:
    with pytest.raises(ZeroDivisionError):
        outbox.send("clean", lambda: print(1 // 0), RunRecord)
