"""Training that is started for a cause: once for each, recorded, and never by failing what asked for it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.states import Cancelled

from flows.run import retraining
from flows.run.retraining import FILES, Cause, started
from flows.servers import input_watch
from flows.servers.input_watch import InputWatch, listed, once_each, watching_input
from tasks.core.errors import TransientError
from tasks.settings import Settings, load_settings
from tests.support.prefect_server import connected, until
from tests.support.webhook import listening

LOSS = Cause("expected-abc", "expected", "expected loss 1.2 of m version 3, night abc")
NEW = Cause("files-abc", FILES, "1 new file(s): a.csv")
NOW = datetime(2026, 4, 9, 5, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(overrides=[f"storage.root={tmp_path}", "retrain.when=[expected, realised, files]"])


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A Prefect server with the deployment: `runs` were asked for, by key; `at work` are those that run."""
    state: dict[str, Any] = {"runs": {}, "at work": [], "problem": None}

    def ask(_api: str, _authorization: str, path: str, body: Any = None) -> Any:
        if state["problem"]:
            raise TransientError(state["problem"], where="there")
        if path == "flow_runs/filter":
            (key,) = body["flow_runs"].get("idempotency_key", {}).get("any_", [""])
            return [state["runs"][key]] if key in state["runs"] else state["at work"] if not key else []
        if path.endswith("/create_flow_run"):
            key = body["idempotency_key"]
            return state["runs"].setdefault(key, {"id": f"run {len(state['runs'])}", "name": "etl-train x"})
        assert path == "deployments/name/etl-train/default"
        return {"id": "d1"}

    monkeypatch.setattr(retraining, "ask", ask)
    return state


def start(settings: Settings, cause: Cause) -> tuple[bool, str]:
    said: list[str] = []
    dealt = retraining.start(settings, settings.storage.path, cause, said.append, "http://x/api")
    return dealt, " ".join(said)


def test_one_run_for_each_cause_recorded_with_why_when_and_which(settings: Settings, prefect: dict[str, Any]) -> None:
    assert start(settings, NEW) == (True, f"a run of etl-train/default is started: {NEW.text}")
    assert start(settings, NEW) == (True, "")
    (found,) = started(settings.storage.path)
    assert (found["kind"], found["text"], found["flow_run_id"]) == (FILES, NEW.text, "run 0")
    assert datetime.fromisoformat(found["when"]) <= datetime.now(UTC)
    assert list(prefect["runs"]) == ["raymill-files-abc"]


def test_a_process_that_dies_before_it_has_recorded_the_run_starts_no_second_one(
    settings: Settings, prefect: dict[str, Any]
) -> None:
    start(settings, NEW)
    (settings.storage.path / "retrain" / f"{NEW.name}.json").unlink()
    assert start(settings, NEW)[0]
    assert len(prefect["runs"]) == 1


def test_after_a_run_for_a_loss_another_night_has_to_wait_but_new_files_have_not(
    settings: Settings, prefect: dict[str, Any]
) -> None:
    assert start(settings, LOSS)[0]
    other = Cause("realised-def", "realised", "realised loss 1.3 of m version 3, night def")
    dealt, said = start(settings, other)
    assert not dealt
    assert "retrain.pause_hours have not passed" in said
    assert start(settings, NEW)[0]
    record = settings.storage.path / "retrain" / f"{LOSS.name}.json"
    earlier = (datetime.now(UTC) - timedelta(hours=21)).isoformat()
    record.write_text(json.dumps({**json.loads(record.read_text()), "when": earlier}))
    assert start(settings, other)[0]
    assert len(prefect["runs"]) == 3


def test_while_a_run_is_at_work_or_no_server_answers_the_cause_stays_open(
    settings: Settings, prefect: dict[str, Any]
) -> None:
    prefect["at work"] = [{"id": "r"}]
    assert start(settings, NEW) == (False, f"no run is started for {NEW.text}: one is at work")
    prefect["problem"] = "Prefect's server does not answer: ConnectError"
    dealt, said = start(settings, NEW)
    assert (dealt, "does not answer" in said, "raymill up deploys" in said) == (False, True, True)
    prefect |= {"at work": [], "problem": None}
    assert start(settings, NEW)[0]
    assert (len(prefect["runs"]), len(started(settings.storage.path))) == (1, 1)


def test_the_webhook_is_told(settings: Settings, prefect: dict[str, Any]) -> None:
    with listening() as hook:
        told = load_settings(overrides=[f"storage.root={settings.storage.root}"], notify={"webhook": hook.url})
        assert start(told, NEW)[0]
        (message,) = hook.posted
    assert (message["event"], message["kind"]) == ("retraining", FILES)
    assert message["text"] == f"etl-train/default is started: {NEW.text}"


def test_a_run_that_was_cancelled_before_it_began_is_started_again_and_one_that_ran_is_not(
    settings: Settings, prefect: dict[str, Any]
) -> None:
    for cause in (LOSS, NEW):
        key = f"raymill-{cause.name}"
        assert start(settings, cause)[0]
        prefect["runs"][key] |= {"state_type": "CANCELLED", "run_count": 0}
        assert start(settings, cause) == (True, f"a run of etl-train/default is started: {cause.text}")
        assert start(settings, cause) == (True, "")
        prefect["runs"][f"{key}-2"] |= {"state_type": "CANCELLED", "run_count": 1}
        assert start(settings, cause) == (True, "")
    assert len(prefect["runs"]) == 4
    assert len(started(settings.storage.path)) == 2


def test_a_run_that_never_ran_does_not_hold_back_another_night(settings: Settings, prefect: dict[str, Any]) -> None:
    assert start(settings, LOSS)[0]
    other = Cause("realised-def", "realised", "realised loss 1.3 of m version 3, night def")
    prefect["runs"][f"raymill-{LOSS.name}"] |= {"state_type": "CANCELLED", "run_count": 0}
    assert start(settings, other)[0]
    dealt, said = start(settings, replace(other, name="realised-ghi"))
    assert (dealt, "retrain.pause_hours" in said) == (False, True)


def test_a_loss_of_another_model_than_the_deployment_trains_starts_nothing(
    settings: Settings, prefect: dict[str, Any]
) -> None:
    ours = ("raymill-amazon-us-rating", "amazon-us", "rating")
    other = replace(LOSS, model="raymill-other-rating", dataset="other", target="rating")
    dealt, said = start(settings, other)
    assert not dealt
    assert "it trains raymill-amazon-us-rating" in said
    assert start(settings, Cause(LOSS.name, LOSS.kind, LOSS.text, *ours))[0]


class Input:
    """An input folder that is watched by an `up` that is started anew for each look."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder / "input", folder
        self.folder.mkdir()
        self.causes: list[Cause] = []
        self.takes = True

    def put(self, name: str, text: str, second: int = 0) -> None:
        (self.folder / name).write_text(text)
        os.utime(self.folder / name, (second, second))

    def look(self, *seconds: float) -> None:
        for after in seconds:
            find = lambda: listed([str(self.folder)])  # noqa: E731
            watch = InputWatch("input", timedelta(seconds=60), self.state, find, self.start)
            watch.tick(NOW + timedelta(seconds=after))

    def start(self, cause: Cause) -> bool:
        self.causes.append(cause)
        return self.takes


@pytest.fixture
def watched(tmp_path: Path) -> Input:
    found = Input(tmp_path)
    found.put("a.csv", "a")
    found.look(0)
    return found


def test_what_is_there_at_the_first_look_starts_nothing_and_a_new_file_starts_one_run(watched: Input) -> None:
    watched.look(20, 40, 1000)
    assert watched.causes == []
    watched.put("b.csv", "b")
    watched.look(1020, 1040, 1060)
    assert watched.causes == []  # it may be half written
    watched.look(1080, 1100)
    assert [cause.text for cause in watched.causes] == ["1 new file(s): b.csv"]
    watched.look(1120, 1140, 1160, 5000)
    assert watched.causes == watched.causes[:1] * 2  # looked at once more: its run may not have begun


def test_a_file_that_grows_counts_once_it_has_stopped(watched: Input) -> None:
    for second in (0, 40, 80):
        watched.put("b.csv", "b" * (second + 1), second)
        watched.look(100 + second)
    watched.look(220)
    assert watched.causes == []
    watched.look(240, 280)
    assert len(watched.causes) == 1


def test_a_run_that_could_not_be_started_is_tried_again_as_the_same_cause(watched: Input) -> None:
    watched.put("a.csv", "other", second=9)
    watched.takes = False
    watched.look(0, 60, 80)
    watched.takes = True
    watched.look(100, 120)
    assert [cause.text for cause in watched.causes] == ["1 changed file(s): a.csv"] * 3
    assert len({cause.name for cause in watched.causes}) == 1


def test_files_that_go_and_files_that_are_not_read_start_nothing(watched: Input) -> None:
    watched.put("notes.docx", "no reviews")
    watched.put(".hidden.csv", "b")
    watched.look(0, 100)
    (watched.folder / "a.csv").unlink()
    watched.look(200, 300)
    (watched.folder / "notes.docx").unlink()
    watched.folder.rename(watched.folder.with_name("away"))
    watched.look(400, 500)
    assert watched.causes == []


def test_the_same_reason_is_said_once(watched: Input) -> None:
    said: list[str] = []
    say = once_each(said.append)
    for line in ("one is at work", "one is at work", "started", "one is at work"):
        say(line)
    assert said == ["one is at work", "started", "one is at work"]


def test_up_sees_a_new_file_and_starts_a_run(
    tmp_path: Path, prefect: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_watch, "EVERY_S", 0.01)
    (tmp_path / "in").mkdir()
    words = [f"storage.root={tmp_path}", f"data.input={tmp_path / 'in'}", "retrain.when=[files]", "retrain.settle_s=0"]
    said: list[str] = []
    settings = load_settings(overrides=words)
    with watching_input(settings, "http://x/api", tmp_path, lambda _name, line: said.append(line)):
        until((tmp_path / "input.json").exists)
        (tmp_path / "in" / "a.csv").write_text("a")
        until(lambda: prefect["runs"])
        until(lambda: "1 new file(s): a.csv" in said[-1])
    assert len(prefect["runs"]) == len(started(tmp_path)) == 1
    assert said[0] == f"new files in {tmp_path / 'in'} start a run of etl-train"


@pytest.mark.slow
def test_prefects_server_has_one_run_for_a_cause_whatever_dies(server: str, settings: Settings) -> None:
    with connected() as client:
        deployment = client.create_deployment(client.create_flow_from_name("etl-train"), name="default")
        for _ in range(2):
            assert retraining.start(settings, settings.storage.path, NEW, print, server)
            (settings.storage.path / "retrain" / f"{NEW.name}.json").unlink()  # as if it had died before
        of_it = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
        (run,) = client.read_flow_runs(deployment_filter=of_it)
        assert (run.idempotency_key, set(run.tags)) == (f"raymill-{NEW.name}", {"raymill", "retrain", FILES})
        assert retraining.start(settings, settings.storage.path, NEW, print, server)  # and recorded
        client.set_flow_run_state(run.id, Cancelled(), force=True)  # as the server does where another was faster
        for _ in range(2):
            assert retraining.start(settings, settings.storage.path, NEW, print, server)
        runs = client.read_flow_runs(deployment_filter=of_it)
        assert {one.idempotency_key for one in runs} == {f"raymill-{NEW.name}", f"raymill-{NEW.name}-2"}
        for one in runs:
            client.delete_flow_run(one.id)
        client.delete_deployment(deployment)
    other = replace(NEW, name="files-def")
    assert not retraining.start(settings, settings.storage.path, other, print, server)  # there is no deployment
