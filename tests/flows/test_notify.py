"""The message to a webhook about a run's end, and that a failing webhook never fails the run."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import State, StateType

from flows.run import notify
from tasks.core.secrets import shown
from tasks.settings import Settings, load_settings
from tests.support.webhook import Hook, listening

RECORD = {
    "run_id": "20260329-043003-a1b2c3",
    "rows_in": 500_000,
    "wall_s": 312.4,
    "metrics": {"rmse": {"tuned": 0.5971, "mean": 1.2}},
    "decision": "version 4 is champion: passed all",
    "mlflow_page": "http://mlflow:5000/#/experiments/1/runs/abc",
}


@pytest.fixture
def hook() -> Iterator[Hook]:
    with listening() as hook:
        yield hook


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "PAUSES_S", (0.0, 0.0))


Ended = Callable[..., str]


@pytest.fixture
def ended(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Ended:
    """Call the hook as Prefect does, for a run with this record; returns what was logged."""

    def call(url: str, type: StateType, message: str = "", record: dict[str, Any] | None = None) -> str:
        settings = load_settings(overrides=[f"storage.root={tmp_path}", f"notify.webhook={url}"])
        flow_run = SimpleNamespace(id=uuid4(), name="etl-train amazon-us", parameters={"dataset": "amazon-us"})
        if record is not None:
            (tmp_path / "runs").mkdir(exist_ok=True)
            (tmp_path / "runs" / "1.json").write_text(json.dumps({**record, "flow_run_id": str(flow_run.id)}))
        notify.remember(str(flow_run.id), settings)
        log = logging.getLogger("prefect.raymill")
        monkeypatch.setattr(log, "handlers", [caplog.handler])
        monkeypatch.setattr(log, "level", logging.WARNING)
        caplog.clear()
        notify.tell_how_it_ended(SimpleNamespace(name="etl-train"), flow_run, State(type=type, message=message))
        return caplog.text

    return call


def test_a_completed_run_tells_its_rows_seconds_score_and_decision(hook: Hook, ended: Ended) -> None:
    assert ended(hook.url, StateType.COMPLETED, record=RECORD) == ""
    (told,) = hook.posted
    assert told["text"].splitlines()[:2] == [
        "etl-train amazon-us completed: amazon-us, 500,000 rows, 312 s, RMSE 0.5971",
        "Model version 4 is champion: passed all",
    ]
    assert told["state"] == "completed"
    assert (told["dataset"], told["rows"], told["seconds"]) == ("amazon-us", 500_000, 312.4)
    assert told["measure"] == {"name": "RMSE", "value": 0.5971}
    assert told["mlflow"] == RECORD["mlflow_page"]
    assert (told["failed_stage"], told["error"]) == (None, None)


def test_what_validation_warns_of_is_told(hook: Hook, ended: Ended) -> None:
    found = [{"expectation": f"column {i}", "value": "3 of 30 rows", "limit": "mostly=0.99"} for i in range(25)]
    stages = [{"stage": "ingest"}, {"stage": "clean", "validation": {"warnings": found}}]
    ended(hook.url, StateType.COMPLETED, record={**RECORD, "stages": stages})
    (told,) = hook.posted
    assert told["warnings"][0] == {"stage": "clean", **found[0]}
    assert len(told["warnings"]) == 20
    lines = [line for line in told["text"].splitlines() if line.startswith("Warning: ")]
    assert lines[0] == "Warning: clean: column 0: 3 of 30 rows; limit: mostly=0.99"
    assert lines[-1] == "Warning: and 20 more"  # of all, also of those that are not sent


def test_a_failed_run_tells_the_stage_and_the_first_line_of_its_error(hook: Hook, ended: Ended) -> None:
    record = {"rows_in": 10, "wall_s": 1.0, "failed": {"stage": "clean", "error": "part-3: not UTF-8\n  → mend it"}}
    ended(hook.url, StateType.FAILED, "Flow run encountered an exception: InputError: part-3", record)
    (told,) = hook.posted
    assert (told["state"], told["failed_stage"], told["error"]) == ("failed", "clean", "part-3: not UTF-8")
    assert told["text"].startswith("etl-train amazon-us failed in clean: ")
    assert "part-3: not UTF-8" in told["text"]


def test_a_run_that_failed_before_it_had_a_record_tells_prefects_message(hook: Hook, ended: Ended) -> None:
    ended(hook.url, StateType.FAILED, "Flow run encountered an exception: InputError: no such file\n  → look")
    assert hook.posted[0]["error"] == "InputError: no such file"


def test_a_crashed_run_tells_which_stage_was_at_work(hook: Hook, ended: Ended) -> None:
    record = {"rows_in": 10, "wall_s": 1.0, "at_work": ["count-words", "tokenize"]}
    ended(hook.url, StateType.CRASHED, "Flow run infrastructure exited with status code -9.", record)
    assert hook.posted[0]["failed_stage"] == "count-words, tokenize"
    assert hook.posted[0]["error"] == "Flow run infrastructure exited with status code -9."


def test_a_cancelled_run_is_told_of_as_such(hook: Hook, ended: Ended) -> None:
    ended(hook.url, StateType.CANCELLING, "Cancelled in the UI")
    assert hook.posted[0]["state"] == "cancelled"
    assert hook.posted[0]["error"] is None


def test_no_secret_leaves_in_the_message(hook: Hook, ended: Ended, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYMILL__TUNE__STORAGE", "postgresql://tuner:hunter22@db/optuna")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMIbPxRfiCY")
    said = (
        f"postgresql://tuner:hunter22@db/optuna and {hook.url} and AKIAIOSFODNN7EXAMPLE refused wJalrXUtnFEMIbPxRfiCY"
    )
    ended(hook.url, StateType.FAILED, said, {"failed": {"stage": "tune", "error": said}})
    text = json.dumps(hook.posted)
    for secret in ("hunter22", "s3cretpath", "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMIbPxRfiCY"):
        assert secret not in text
    assert "db/optuna" in text


def test_a_server_in_trouble_is_asked_three_times(hook: Hook, ended: Ended) -> None:
    hook.statuses = [503, 429, 200]
    assert ended(hook.url, StateType.COMPLETED) == ""
    assert len(hook.posted) == 3
    hook.statuses, hook.posted[:] = [500], []
    assert "answers 500" in ended(hook.url, StateType.COMPLETED)
    assert len(hook.posted) == 3


def test_a_redirect_is_not_followed(hook: Hook, ended: Ended) -> None:
    hook.statuses, hook.headers = [307], [("Location", hook.url.replace("T000", "elsewhere"))]
    log = ended(hook.url, StateType.COMPLETED)
    assert len(hook.posted) == 1
    assert "answers 307" in log


def test_a_server_that_is_down_or_slow_fails_nothing_and_the_log_keeps_its_address_secret(
    hook: Hook, ended: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}/s3cretpath"
    log = ended(nobody, StateType.COMPLETED)
    assert "cannot be reached (ConnectError)" in log
    assert "s3cretpath" not in log
    monkeypatch.setattr(notify, "TIMEOUT_S", 0.1)
    hook.answer.clear()
    log = ended(hook.url, StateType.COMPLETED)
    assert "cannot be reached (ReadTimeout)" in log
    assert "s3cretpath" not in log
    assert len(hook.posted) == 3


def test_a_server_that_never_ends_its_answer_is_left_behind(
    hook: Hook, ended: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "PATIENCE_S", 0.1)
    hook.answer.clear()
    assert "no answer in time" in ended(hook.url, StateType.COMPLETED)


def test_without_a_webhook_nobody_is_asked(ended: Ended) -> None:
    assert ended("null", StateType.COMPLETED) == ""


def test_no_webhook_by_the_settings_is_none_whatever_the_variable_says(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYMILL__NOTIFY__WEBHOOK", hook.url)
    assert notify.send(load_settings(overrides=["notify.webhook=null"]), notify.ENDED, {"text": "done"}) == ""
    assert hook.posted == []


def test_a_copy_of_the_settings_without_secrets_leaves_the_webhook_to_the_variable(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYMILL__NOTIFY__WEBHOOK", hook.url)
    copy = shown(load_settings())
    for settings in (
        copy,
        Settings.model_validate(copy.model_dump(mode="json", by_alias=True)),
    ):  # here, and on Prefect's server
        assert notify.send(settings, notify.ENDED, {"text": "done"}) == ""
    assert len(hook.posted) == 2


@pytest.mark.parametrize("url", ["ftp://host/s3cretpath", "file:///etc/s3cretpath", "s3cretpath", "http://"])
def test_an_address_that_is_none_is_refused_without_showing_it(url: str) -> None:
    from tasks.core.errors import SettingsError

    with pytest.raises(SettingsError, match=r"notify\.webhook: .*http://") as refused:
        load_settings(overrides=[f"notify.webhook={url}"])
    assert "s3cretpath" not in str(refused.value)


def test_a_worker_that_tells_of_another_process_run_finds_settings_and_record_by_itself(
    hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYMILL__NOTIFY__WEBHOOK", hook.url)
    flow_run = SimpleNamespace(
        id=uuid4(), name="etl-train x", parameters={"overrides": [f"storage.root={tmp_path}", "data.dataset=musical"]}
    )
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "1.json").write_text(json.dumps({"flow_run_id": str(flow_run.id), "at_work": ["tune"]}))
    notify.tell_how_it_ended(None, flow_run, State(type=StateType.CRASHED, message="killed"))
    assert (hook.posted[0]["dataset"], hook.posted[0]["failed_stage"]) == ("musical", "tune")


@pytest.mark.parametrize("parameters", [{"overrides": ["no.such=1"]}, {"settings": {"wrong": 1}}])
def test_a_run_whose_settings_are_wrong_is_told_of_too(
    hook: Hook, parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYMILL__NOTIFY__WEBHOOK", hook.url)
    flow_run = SimpleNamespace(id=uuid4(), name="etl-train", parameters=parameters)
    notify.tell_how_it_ended(None, flow_run, State(type=StateType.FAILED, message="unknown setting 'no.such'"))
    assert hook.posted[0]["error"] == "unknown setting 'no.such'"


def test_the_webhook_is_in_nothing_that_is_written(hook: Hook) -> None:
    settings: Settings = load_settings(overrides=[f"notify.webhook={hook.url}"])
    assert "s3cretpath" not in settings.model_dump_json() + repr(settings) + str(settings.model_dump())
