"""The record of a run: what it says as JSON, and that records of earlier versions can be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.run.record import RunRecord, StageRow, read_record
from tasks.core.secrets import MASK

# As a version before this one wrote it: without left_out, validation and recorded; with a member that is gone.
OLD = {
    "run_id": "20240329-043003-a1b2c3",
    "state": "completed",
    "started": "2024-03-29T04:30:03+00:00",
    "wall_s": 77.4,
    "rows_in": 20000,
    "stages": [
        {
            "stage": "clean",
            "rows_in": 19924,
            "rows": 19795,
            "unit": "rows",
            "rejected": 0,
            "repeated": 129,
            "reused": False,
            "seconds": {"run": 0.3533, "commit": 0.0042},
            "wall_s": 0.972,
            "digest": "9730892a",
            "key": "13ba2920",
            "notes": {"parts": 4, "parts_taken_over": 0},
            "host": "a-member-of-another-version",
        },
        {"stage": "register", "key": "", "rows": 0, "unit": "rows"},
    ],
    "mlflow_run": "0123",
    "tracking": "sqlite:///mlruns/mlflow.db",
    "decision": "version 4 is champion: passed all",
    "metrics": {"rmse": {"tuned": 0.5971, "mean": 1.2}},
    "made_by": "another version",
}


def test_a_record_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(OLD))
    record = read_record(tmp_path / "run.json")
    assert (record.run_id, record.wall_s, record.decision) == (OLD["run_id"], 77.4, OLD["decision"])
    assert (record.unrecorded, record.at_work, record.failed) == ([], [], None)
    assert [row.stage for row in record.stages] == ["clean", "register"]
    clean = record.row("clean")
    assert clean is not None
    assert (clean.repeated, clean.left_out, clean.seconds["run"], clean.recorded) == (129, 0, 0.3533, True)
    assert record.row("split") is None


def test_an_empty_record_is_one() -> None:
    assert RunRecord.from_json({}) == RunRecord()


def test_a_record_comes_back_from_json_as_it_was() -> None:
    row = StageRow("clean", rows_in=10, rows=9, repeated=1, seconds={"run": 1.5}, digest="d", key="k", wall_s=1.6)
    record = RunRecord(
        run_id="r",
        state="failed",
        stages=[row],
        at_work=["tokenize"],
        extra_s={"tracking_open": 0.2},
        failed={"stage": "tokenize", "error": "no such file"},
        metrics={"rmse": {"tuned": 0.5}},
    )
    assert RunRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_the_json_has_the_members_that_others_read() -> None:
    given = RunRecord(run_id="r", stages=[StageRow("ingest")]).to_json()
    always = ["run_id", "state", "started", "wall_s", "cpu_s", "peak_mb", "rows_in", "stages", "at_work", "extra_s"]
    assert list(given) == [*always, "mlflow_run", "tracking", "unrecorded", "flow_run_id", "mlflow_page"]
    counts = ["rows_in", "rows", "unit", "rejected", "repeated", "forgotten", "left_out", "quarantined", "lost_values"]
    more = ["reused", "seconds", "digest", "key", "validation", "notes", "recorded", "wall_s", "cpu_s", "peak_mb"]
    assert list(given["stages"][0]) == ["stage", *counts, *more]
    ended = RunRecord(decision="d", card="c", gates=[], metrics={}, mlflow="m", report="p", data_docs="", startup_s=1.0)
    later = ["decision", "card", "gates", "metrics", "mlflow", "report", "data_docs", "startup_s"]
    assert list(ended.to_json())[-len(later) :] == later


def test_what_is_shown_of_a_record_holds_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "hunter2222")
    record = RunRecord(
        run_id="r",
        stages=[StageRow("clean")],
        tracking="https://me:hunter2222@mlflow",
        failed={"stage": "tune", "error": "refused hunter2222"},
        report="/home/hunter2222/report.html",
    )
    shown = record.masked()
    assert shown.tracking == f"https://me:{MASK}@mlflow"
    assert shown.failed == {"stage": "tune", "error": f"refused {MASK}"}
    assert (shown.report, shown.stages, shown.decision) == (record.report, record.stages, None)
