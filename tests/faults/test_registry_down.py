"""An MLflow server that is killed in the middle of a run: the work is kept, and recorded on the next start."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from mlflow import MlflowClient
from rich.console import Console

from flows.cli.console import ConsoleView, print_summary
from flows.drill.servers import MlflowServer
from flows.run.context import VIEW, Run
from flows.run.opening import open_run
from flows.run.record import RunRecord
from tasks.core.errors import RegistryError
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import run_stage, stage
from tasks.engines import tracking
from tasks.settings import Settings, load_settings
from tasks.stages.tune.settings import TuneConfig
from tests.support.mlflow_database import new_database

pytestmark = [pytest.mark.slow, pytest.mark.fault]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    new_database(tmp_path / "mlflow.db")
    server = MlflowServer(tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@stage(version=1, config=TuneConfig, name="clean")
def clean(config: TuneConfig, out: SnapshotWriter) -> None:
    out.write_table("part-00000.parquet", pa.table({"x": [1, 2, 3]}))


@stage(version=1, config=TuneConfig, name="train")
def train(reviews: Snapshot, config: TuneConfig, out: SnapshotWriter) -> None:
    rounds = [0, 1, 2]
    curve = {"round": rounds, "split": ["valid"] * 3, "loss": [3.0, 2.0, 1.0]}
    out.write_table("part-00000.parquet", pa.table(curve))
    out.write_bytes("model.ubj", b"a model")
    out.fact(target="rating", metric="rmse", params={"eta": 0.1}, rounds=3, features=["x"], loss={"valid": 1.0})


@pytest.fixture(autouse=True)
def _light_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without Prefect, whose stages need neither Ray nor validators."""
    VIEW.set(ConsoleView(Console(file=io.StringIO())))
    monkeypatch.setattr(Run, "prepare", lambda _self: None)
    monkeypatch.setattr(Run, "validate", lambda _self, _stage, _out: {})


def settings_of(uri: str, folder: Path) -> Settings:
    return load_settings(overrides=[f"tracking.uri={uri}", f"storage.root={folder / 'data'}"])


def stages_of(run: Run) -> None:
    reviews = run.execute(clean, [], run.settings.tune)
    run.execute(train, [reviews], run.settings.tune)


def test_what_a_killed_server_missed_is_recorded_by_the_next_run_and_nothing_twice(
    server: MlflowServer,
) -> None:
    settings = settings_of(server.uri, server.folder)
    shown = io.StringIO()
    VIEW.set(ConsoleView(Console(file=shown, width=200)))
    with open_run(settings) as first:
        server.kill()
        stages_of(first)
        with pytest.raises(RegistryError, match="MLflow cannot be used"), tracking.reaching(server.uri):
            first.tracker.child("register")  # what has the registry for its state fails, and says so
    record = first.root / "runs" / f"{first.run_id}.json"
    told = json.loads(record.read_text())
    assert (told["state"], told["unrecorded"]) == ("completed", ["clean", "train", "end"])
    print_summary(Console(file=shown, width=200), RunRecord.from_json(told))
    assert shown.getvalue().count("recorded later") == 2
    assert "the next run will: clean, train, end" in shown.getvalue()

    server.start()
    with open_run(settings) as second:
        stages_of(second)
    assert all(row.reused for row in second.record.stages)
    assert second.record.caught_up == [f"{first.run_id}: clean, train, end"]
    assert json.loads(record.read_text())["unrecorded"] == []
    client = MlflowClient(server.uri, server.uri)
    run = client.get_run(first.tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["clean/rows"] == 3
    assert run.data.tags["snapshot.train"] == second.snapshots["train"].digest
    (child,) = children(client, run)
    assert child.info.run_name == "train"
    assert child.info.status == "FINISHED"
    assert child.data.params["eta"] == "0.1"
    assert child.inputs.dataset_inputs


@pytest.mark.nightly
def test_a_server_that_comes_back_while_a_run_goes_on_is_told_the_rest_by_the_run(server: MlflowServer) -> None:
    settings = settings_of(server.uri, server.folder)
    with open_run(settings) as run:
        assert run.record.caught_up is None
        server.kill()
        reviews = run.execute(clean, [], settings.tune)
        assert run.outbox.waiting == ["clean"]
        server.start()
        run.execute(train, [reviews], settings.tune)
        assert run.outbox.waiting == []
    recorded = MlflowClient(server.uri, server.uri).get_run(run.tracker.run_id)
    assert recorded.info.status == "FINISHED"
    assert {"snapshot.clean", "snapshot.train"} <= set(recorded.data.tags)


def test_what_a_run_killed_after_a_commit_could_not_tell_the_next_one_tells_once(tmp_path: Path) -> None:
    uri = new_database(tmp_path / "m.db")
    settings = settings_of(uri, tmp_path)
    with open_run(settings) as killed:
        reviews = killed.execute(clean, [], settings.tune)
        run_stage(train, [reviews], settings.tune, killed.store, validate=lambda _stage, _out: {})
    told = []
    for _ in range(2):
        with open_run(settings) as run:
            stages_of(run)
        assert all(row.reused for row in run.record.stages)
        client = MlflowClient(uri, uri)
        told.append([child.info.run_name for child in children(client, client.get_run(run.tracker.run_id))])
    assert told == [["train"], []]


def children(client: Any, run: Any) -> list[Any]:
    return list(client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"))
