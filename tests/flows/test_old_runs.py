"""`raymill gc` with storage.keep_days: which runs in MLflow and Prefect go, and which never do."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from rich.console import Console

from flows.cli import old_mlflow_runs, old_prefect_runs
from flows.cli.old_runs import remove_old_runs
from tasks.core.errors import SettingsError, TransientError
from tasks.core.sections import PROJECT
from tasks.engines.registry import AUDIT
from tasks.settings import Settings, load_settings
from tests.support.command import raymill
from tests.support.mlflow_database import new_database

NOW = datetime(2026, 6, 1, tzinfo=UTC)
OLD, NEW = 100, 5  # days ago; 30 are kept


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


@dataclass
class Tracked:
    """Runs in an MLflow database, as nights write them."""

    client: MlflowClient
    settings: Settings
    experiment: str

    def run(self, name: str, days: float, status: str | None = "FINISHED", parent: str = "", **tags: str) -> str:
        own = {"raymill.run_id": name, "raymill.dataset": "amazon-us"} if not parent else {"mlflow.parentRunId": parent}
        began = int(ago(days).timestamp() * 1000)
        given = {**own, **{key.replace("__", "."): value for key, value in tags.items()}}
        made = self.client.create_run(self.experiment, start_time=began, run_name=name, tags=given).info.run_id
        if status:
            self.client.set_terminated(made, status, end_time=began + 1000)
        return str(made)

    def register(self, run_id: str, **tags: Any) -> None:
        if not self.client.search_registered_models():
            self.client.create_registered_model("raymill-rating")
        self.client.create_model_version("raymill-rating", f"runs:/{run_id}/model", run_id=run_id, tags=tags)

    def gc(self, *, dry_run: bool = False) -> str:
        console = Console(file=io.StringIO(), width=200)
        remove_old_runs(self.settings, console, 30, dry_run=dry_run, now=NOW)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    @property
    def names(self) -> set[str]:
        return {run.info.run_name for run in self.client.search_runs([self.experiment])}


@pytest.fixture
def tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracked:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    uri = new_database(tmp_path / "m.db")
    settings = load_settings(overrides=[f"tracking.uri={uri}", f"storage.root={tmp_path / 'data'}"])
    client = MlflowClient(uri, uri)
    experiment = client.create_experiment("raymill", (tmp_path / "artifacts").as_uri())
    return Tracked(client, settings, experiment)


def test_an_old_run_goes_for_good_with_all_below_it_and_its_files(tracked: Tracked, tmp_path: Path) -> None:
    night = tracked.run("old", OLD)
    tune = tracked.run("tune", OLD, parent=night)
    tracked.client.log_text(tune, "text", "plots/a.txt")
    tracked.run("trial 0", OLD, parent=tune)
    tracked.run("new", NEW)
    said = tracked.gc(dry_run=True)
    assert "MLflow run old, 2026-02-21, and 2 below it" in said
    assert "3 run(s) of MLflow and 0 of Prefect older than 30 days would be removed" in said
    assert tracked.names == {"old", "tune", "trial 0", "new"}
    assert "3 run(s) of MLflow and 0 of Prefect older than 30 days removed" in tracked.gc()
    assert tracked.names == {"new"}
    with pytest.raises(Exception, match=f"'{night}' not found|{night}"):
        tracked.client.get_run(night)
    assert list((tmp_path / "artifacts").rglob("a.txt")) == []
    assert "0 run(s) of MLflow" in tracked.gc()


def test_what_others_deleted_softly_stays_and_models_go_with_their_run(tracked: Tracked, tmp_path: Path) -> None:
    """An experiment, a run and a model that somebody may yet restore, with their files."""
    others = tracked.client.create_experiment("theirs", (tmp_path / "theirs").as_uri())
    theirs = tracked.client.create_run(others).info.run_id
    tracked.client.log_text(theirs, "text", "b.txt")
    old, new = tracked.run("old", OLD), tracked.run("new", NEW)
    ours, mine, kept = (
        tracked.client.create_logged_model(of, name="model", source_run_id=run_id)
        for of, run_id in ((tracked.experiment, old), (others, theirs), (tracked.experiment, new))
    )
    for model in (ours, mine, kept):
        folder = Path(model.artifact_location.removeprefix("file://"))
        folder.mkdir(parents=True)
        (folder / f"{model.model_id}.ubj").write_text("trees")
    for model in (mine, kept):
        tracked.client.delete_logged_model(model.model_id)
    tracked.client.delete_experiment(others)
    assert "1 run(s) of MLflow and 0 of Prefect older than 30 days removed" in tracked.gc()
    assert tracked.client.get_experiment(others).lifecycle_stage == "deleted"
    assert tracked.client.get_run(theirs).info.lifecycle_stage == "deleted"
    assert len(list((tmp_path / "theirs").rglob("b.txt"))) == 1
    assert {path.stem for path in tmp_path.rglob("*.ubj")} == {mine.model_id, kept.model_id}
    with pytest.raises(MlflowException, match="not found"):
        tracked.client.get_logged_model(ours.model_id)


@pytest.mark.parametrize("below", [False, True])
def test_a_run_of_a_registered_version_and_all_around_it_stay(tracked: Tracked, below: bool) -> None:
    night = tracked.run("old", OLD)
    child = tracked.run("register", OLD, parent=night)
    tracked.run("trial 0", OLD, parent=tracked.run("tune", OLD, parent=night))
    tracked.run("new", NEW)
    tracked.register(child if below else night)
    tracked.gc()
    assert tracked.names == {"old", "register", "tune", "trial 0", "new"}


def test_the_training_that_a_version_rests_on_stays(tracked: Tracked) -> None:
    first = tracked.run("first", OLD + 1)
    tracked.run("refit", OLD + 1, parent=first, raymill__key="k7")
    second = tracked.run("second", OLD)
    tracked.register(tracked.run("register", OLD, parent=second), **{"raymill.snapshot_keys": json.dumps(["k7"])})
    tracked.run("other", OLD)
    tracked.run("new", NEW)
    tracked.gc()
    assert tracked.names == {"first", "refit", "second", "register", "new"}


def test_what_runs_and_the_newest_of_each_data_set_stay(tracked: Tracked) -> None:
    tracked.run("running", OLD + 2, None)
    tracked.run("below", OLD + 2, None, parent=tracked.run("ended", OLD + 2))
    tracked.run("older", OLD + 1)
    tracked.run("finished", OLD)
    tracked.run("failed", OLD - 1, "FAILED")
    tracked.run("books", OLD + 9, raymill__dataset="my-books")
    tracked.gc()
    assert tracked.names == {"running", "ended", "below", "finished", "failed", "books"}


def test_records_of_decisions_and_runs_of_others_stay(tracked: Tracked) -> None:
    night = tracked.run("old", OLD)
    tracked.run("register", OLD, parent=night, **{AUDIT: "raymill-rating"})
    tracked.run("by hand", OLD, raymill__run_id="", **{AUDIT: "raymill-rating"})
    tracked.client.create_run(tracked.experiment, start_time=0, run_name="a notebook")
    tracked.run("new", NEW)
    tracked.gc()
    assert tracked.names == {"register", "by hand", "a notebook", "new"}


def test_a_server_only_marks_them_and_that_is_said(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    night = tracked.run("old", OLD)
    tracked.run("new", NEW)
    monkeypatch.setattr(old_mlflow_runs, "database", lambda _uri, _settings: None)
    assert "marked as deleted" in tracked.gc()
    assert tracked.client.get_run(night).info.lifecycle_stage == "deleted"


def test_by_default_gc_keeps_all_runs_and_an_age_of_no_days_is_refused(tracked: Tracked, tmp_path: Path) -> None:
    tracked.run("old", 1000)
    tracked.run("new", NEW)
    given = [f"storage.root={tmp_path}", f"tracking.uri={tracked.settings.tracking.uri}"]
    words = [word for setting in given for word in ("--set", setting)]
    assert raymill("gc", *words).stdout.splitlines() == ["0 removed, 0.0 MB freed"]
    said = raymill("gc", *words, "--set", "storage.keep_days=30").stdout
    assert "1 run(s) of MLflow and 0 of Prefect older than 30 days removed" in said
    assert tracked.names == {"new"}
    with pytest.raises(SettingsError, match="keep_days"):
        load_settings(overrides=["storage.keep_days=0"])


Ask = Callable[..., Any]


def flow_run(name: str, days: float, state: str = "COMPLETED", flow: str = "f1") -> dict[str, Any]:
    about = {"id": name, "name": name, "flow_id": flow, "state_type": state, "tags": ["raymill", "nightly"]}
    return {**about, "end_time": ago(days).isoformat()}


def old_ones(monkeypatch: pytest.MonkeyPatch, runs: list[dict[str, Any]], kept: tuple[str, ...] = ()) -> set[str]:
    def ask(_api: str, _authorization: str, _path: str, body: Any) -> Any:
        return runs[body["offset"] : body["offset"] + 2]

    monkeypatch.setattr(old_prefect_runs, "ask", ask)
    return {run["name"] for run in old_prefect_runs.old_flow_runs("", "", ago(30), kept, ("known",))}


def test_old_flow_runs_go_but_for_the_newest_of_each_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [
        flow_run("etl-train b", OLD, "FAILED"),
        flow_run("etl-train b", OLD + 1, "FAILED") | {"id": "b2"},
        flow_run("etl-train b", OLD + 2) | {"id": "b3"},
        flow_run("odd-name", OLD + 3, flow="bench"),
        flow_run("other-name", OLD + 4, flow="bench"),
    ]
    found = old_ones(monkeypatch, [flow_run("etl-train a", NEW), flow_run("etl-train a", OLD), *runs])
    assert found == {"etl-train a", "etl-train b", "other-name"}
    assert old_ones(monkeypatch, [*runs[3:]], kept=("other-name",)) == set()


def test_flow_runs_of_others_with_the_same_flow_names_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = [flow_run("etl-train a", NEW), flow_run("etl-train a", OLD) | {"id": "known", "tags": []}]
    theirs = [flow_run(f"theirs {n}", OLD + n) | {"parameters": {"dataset": "a"}, "tags": ["team"][n:]} for n in (0, 1)]
    assert old_ones(monkeypatch, [*theirs]) == set()
    assert old_ones(monkeypatch, [*ours, *theirs]) == {"etl-train a"}


def test_every_deployment_has_the_tag_by_which_its_runs_are_known() -> None:
    deployments = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    assert all(old_prefect_runs.TAG in deployment["tags"] for deployment in deployments)


def test_a_flow_run_that_a_record_or_mlflow_names_is_ours(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tracked.settings.storage.path / "runs"
    runs.mkdir(parents=True)
    (runs / "1.json").write_text(json.dumps({"flow_run_id": "by record"}))
    (runs / "2.json").write_text("{")
    tracked.run("old", OLD, prefect__flow_run_id="by mlflow")
    tracked.run("new", NEW)
    ended = [flow_run("etl-train a", OLD) | {"id": i, "tags": []} for i in ("by record", "by mlflow", "theirs")]
    deleted: list[str] = []

    def ask(_api: str, _authorization: str, path: str, body: Any) -> Any:
        if path == "flow_runs/filter":
            return [flow_run("etl-train a", NEW), *ended] if not body["offset"] else []
        deleted.extend(body["flow_runs"]["id"]["any_"])
        return {"deleted": deleted}

    monkeypatch.setattr(old_prefect_runs, "ask", ask)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert "1 run(s) of MLflow and 2 of Prefect" in tracked.gc()
    assert deleted == ["by record", "by mlflow"]


@pytest.mark.parametrize("status", [401, 403])
def test_a_prefect_that_refuses_is_said_and_mlflow_is_cleaned_all_the_same(
    tracked: Tracked, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    tracked.run("old", OLD)
    tracked.run("new", NEW)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("PREFECT_API_KEY", "kanari-key")
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    sent: list[str] = []

    def request(method: str, url: str, *, headers: dict[str, str], **_: Any) -> httpx.Response:
        sent.append(headers["Authorization"])
        return httpx.Response(status, request=httpx.Request(method, url))

    monkeypatch.setattr(httpx, "request", request)
    with pytest.raises(TransientError, match=r"refuses the password.*\n.*services\.auth; PREFECT_API_KEY"):
        tracked.gc()
    assert tracked.names == {"new"}
    assert sent == ["Bearer kanari-key"]


@pytest.mark.slow
def test_a_flow_run_of_a_real_server_is_found_and_deleted(server: str) -> None:
    from prefect import flow
    from prefect.states import Completed

    from flows.servers.prefect_http import ask
    from tests.support.prefect_server import connected

    @flow(name="bench")
    def nothing() -> None:
        """Do nothing."""

    with connected() as client:
        made = [client.create_flow_run(nothing, state=Completed(), tags=["raymill"]) for _ in range(2)]
        later = datetime.now(UTC) + timedelta(days=1)
        found = [str(run["id"]) for run in old_prefect_runs.old_flow_runs(server, "", later, (), ())]
        assert str(made[0].id) in found
        assert str(made[1].id) not in found  # the newest
        assert old_prefect_runs.remove(server, "", found) == len(found)
        left = {run["id"] for run in ask(server, "", "flow_runs/filter", {"limit": 200})}
    assert not left & set(found)
    assert str(made[1].id) in left
