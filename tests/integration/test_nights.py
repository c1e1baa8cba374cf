"""Unattended nights with real servers: notifications of a run's end, dead runs, monitoring."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun

from flows.etl_train import etl_train
from flows.run import links
from flows.run.context import Run
from flows.run.opening import open_run
from flows.run.stage_task import StageTask
from tasks.core.errors import InputError, TransientError
from tasks.core.sections import PROJECT
from tasks.core.snapshots import SnapshotWriter
from tasks.core.stage import stage
from tasks.settings import Settings, load_settings
from tasks.sources.synth import synthesize
from tasks.stages.tokenize import TokenizeConfig
from tests.support.mlflow_database import new_database
from tests.support.prefect_server import LIMIT_S, connected, until
from tests.support.webhook import Hook, listening

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def client(server: str) -> Iterator[SyncPrefectClient]:
    with connected() as client:
        yield client


@pytest.fixture
def hook() -> Iterator[Hook]:
    with listening() as hook:
        yield hook


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    return [
        f"storage.root={tmp_path / 'data'}",
        f"tracking.uri={new_database(tmp_path / 'mlflow.db')}",
        "ray.object_store_mb=256",
        "retries.first_delay_s=0",
    ]


@pytest.fixture
def toys(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A run without Ray and validators, whose toy stages need neither."""
    monkeypatch.setattr(Run, "prepare", lambda self: None)
    monkeypatch.setattr(Run, "validate", lambda self, stage, out: {})
    return load_settings(overrides=overrides)


TRIED: list[str] = []


@stage(version=1, config=TokenizeConfig, name="clean", section="tokenize", retries=1)
def fails(config: TokenizeConfig, out: SnapshotWriter) -> None:
    TRIED.append("clean")
    raise InputError("part-3.parquet: not UTF-8", where="clean", fix="mend it")


@stage(version=1, config=TokenizeConfig, name="tokenize", retries=1)
def lost(config: TokenizeConfig, out: SnapshotWriter) -> None:
    TRIED.append("tokenize")
    if len(TRIED) < 4:
        raise TransientError("a worker was lost")
    out.write_bytes("tokenize.bin", b"x")


def run(settings: Settings, stages: Callable[[Run], Any]) -> tuple[str, str]:
    """Run the stages as a flow; returns the flow run's id and the MLflow run's."""

    @flow(name="toys", persist_result=False)
    def toys() -> tuple[str, str]:
        from prefect.runtime import flow_run

        with open_run(settings) as opened:
            stages(opened)
        return str(flow_run.id), opened.tracker.run_id

    return toys()


@pytest.mark.usefixtures("server")
def test_a_lost_worker_is_tried_again_as_often_as_the_settings_say_and_a_wrong_input_is_not(toys: Settings) -> None:
    settings = toys.model_copy(update={"retries": toys.retries.model_copy(update={"times": 3})})
    TRIED.clear()
    run(settings, lambda _: StageTask(lost)())
    assert TRIED == ["tokenize"] * 4
    (record,) = [json.loads(path.read_text()) for path in (settings.storage.path / "runs").glob("*.json")]
    assert ("failed" in record, record["at_work"]) == (False, [])

    TRIED.clear()
    with pytest.raises(InputError):
        run(settings, lambda _: StageTask(fails)())
    assert TRIED == ["clean"]
    records = [json.loads(path.read_text()) for path in (settings.storage.path / "runs").glob("*.json")]
    assert {"stage": "clean", "error": "clean: part-3.parquet: not UTF-8"} in [r.get("failed") for r in records]


@pytest.mark.usefixtures("server")
def test_the_parent_run_in_mlflow_keeps_how_busy_the_machine_was(
    toys: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.engines.tracking.SAMPLE_S", 0.05)
    client = MlflowClient(toys.tracking.uri)

    def measured(opened: Run) -> dict[str, float]:
        found: dict[str, float] = client.get_run(opened.tracker.run_id).data.metrics
        return {name: value for name, value in found.items() if name.startswith("system/")}

    _, mlflow_run = run(toys, lambda opened: until(lambda: measured(opened)))
    names = client.get_run(mlflow_run).data.metrics
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= set(names)
    assert client.get_run(mlflow_run).info.status == "FINISHED"

    without = toys.model_copy(update={"tracking": toys.tracking.model_copy(update={"system_metrics": False})})
    _, mlflow_run = run(without, lambda _: None)
    assert [name for name in client.get_run(mlflow_run).data.metrics if name.startswith("system/")] == []


@pytest.mark.usefixtures("server")
def test_a_machine_that_cannot_be_measured_fails_no_run(toys: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError("no /proc here")

    monitor = "mlflow.system_metrics.system_metrics_monitor.SystemMetricsMonitor"
    monkeypatch.setattr(f"{monitor}.__init__", broken)
    _, mlflow_run = run(toys, lambda _: None)
    assert MlflowClient(toys.tracking.uri).get_run(mlflow_run).info.status == "FINISHED"


def test_the_runs_page_links_to_where_one_can_look(
    toys: Settings, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "mlflow_page", lambda _: "http://mlflow:5000/#/experiments/1/runs/r")
    flow_run, _ = run(toys, lambda _: links.link("data-docs", None, "there are none"))
    found = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run])))
    assert {a.key: a.data for a in found} == {"mlflow-run": "[MLflow run](http://mlflow:5000/#/experiments/1/runs/r)"}


def test_warnings_are_a_table_on_the_runs_page_and_counted_in_mlflow(
    toys: Settings, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"expectation": "rating: expect_x", "value": "3 of 30 rows", "limit": "mostly=0.99"}
    monkeypatch.setattr(Run, "validate", lambda self, stage, out: {"warnings": [found]})
    TRIED[:] = ["tried"] * 4
    flow_run, mlflow_run = run(toys, lambda _: StageTask(lost)())
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run]))
    (table,) = [a for a in client.read_artifacts(artifact_filter=of_run) if a.key == "warnings"]
    assert json.loads(table.data) == [{"stage": "tokenize", **found}]
    assert MlflowClient(toys.tracking.uri).get_run(mlflow_run).data.metrics["run/warnings"] == 1


def test_a_failed_run_of_the_flow_is_told_of_by_prefects_hook(server: str, hook: Hook, overrides: list[str]) -> None:
    settings = load_settings(overrides=[*overrides, f"notify.webhook={hook.url}"])
    with pytest.raises(InputError):
        etl_train("/no/such/folder", "amazon-us", settings=settings)
    (told,) = hook.posted
    assert (told["flow_run"], told["state"]) == ("etl-train amazon-us", "failed")
    assert told["error"].startswith("InputError: /no/such/folder")
    assert told["prefect"] == f"{server.removesuffix('/api')}/runs/flow-run/{told['flow_run_id']}"


@pytest.mark.nightly
def test_a_run_from_the_shell_logs_json_and_tells_the_webhook(hook: Hook, tmp_path: Path, overrides: list[str]) -> None:
    synthesize(400, 7, tmp_path / "sample")
    command = [sys.executable, "-m", "flows.cli.main", "run", "--input", str(tmp_path / "sample"), "--until", "clean"]
    settings = [*overrides, "logging.json=true", f"notify.webhook={hook.url}"]

    def shell(*more: str) -> subprocess.CompletedProcess[str]:
        said = [*command, *(f"--set={s}" for s in (*settings, *more)), "--json", "-"]
        return subprocess.run(said, cwd=PROJECT, capture_output=True, text=True, timeout=LIMIT_S)

    done = shell()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "completed"
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    ended = [line for line in lines if line["stage"] == "clean" and "rows, made" in line["message"]]
    (told,) = hook.posted
    assert len(ended) == 1
    assert ended[0]["run_id"] == told["run_id"]
    assert ended[0]["flow_run_id"] == told["flow_run_id"]
    assert (told["state"], told["rows"], told["dataset"]) == ("completed", 400, "amazon-us")
    assert hook.url not in done.stderr + done.stdout

    hook.posted.clear()
    failed = shell("ingest.min_rows=5000")
    assert failed.returncode == 2, failed.stderr
    lines = [json.loads(line) for line in failed.stderr.splitlines()]
    assert lines[-1]["message"].partition("\n")[0] == hook.posted[0]["error"]
    assert hook.posted[0]["failed_stage"] == "ingest"


@pytest.mark.nightly
@pytest.mark.fault
def test_a_workers_run_logs_json_and_tells_how_it_ended_also_when_it_was_killed(
    server: str, client: SyncPrefectClient, hook: Hook, tmp_path: Path, overrides: list[str]
) -> None:
    synthesize(400, 7, tmp_path / "sample")
    settings = [*overrides, "logging.json=true", f"notify.webhook={hook.url}"]
    env = {
        **os.environ,
        "PREFECT_API_URL": server,
        **{f"RAYMILL__{s.partition('=')[0].replace('.', '__').upper()}": s.partition("=")[2] for s in settings},
    }

    def python(*arguments: str, **more: str) -> str:
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(
            command, cwd=PROJECT, env={**env, **more}, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stderr

    def night(**more: str) -> tuple[FlowRun, dict[str, Any], list[str]]:
        deployment = client.read_deployment_by_name("etl-train/default")
        parameters = {"input": str(tmp_path / "sample"), "until": "ingest"}
        id = client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id
        said = python("prefect", "worker", "start", "--pool", "raymill", "--type", "process", "--run-once", **more)
        hook_told = until(lambda: [told for told in hook.posted if told["flow_run_id"] == str(id)])
        assert len(hook_told) == 1
        return client.read_flow_run(id), hook_told[0], said.splitlines()

    python("flows.servers.deploy")

    killed, told, _ = night(RAYMILL_KILL_AT="ingest:before-run")
    assert killed.state_name == "Crashed"
    assert (told["state"], told["failed_stage"]) == ("crashed", "ingest")

    completed, told, said = night()
    assert completed.state_name == "Completed"
    assert completed.name == "etl-train amazon-us"
    assert (told["state"], told["rows"], told["failed_stage"]) == ("completed", 400, None)
    begun = next(i for i, line in enumerate(said) if line.startswith("{"))
    lines = [json.loads(line) for line in said[begun:] if line.startswith("{")]
    assert {line["flow_run_id"] for line in lines if line["stage"] == "ingest"} == {str(completed.id)}
    assert [line["message"] for line in lines if line["stage"] == "ingest" and "rows, made" in line["message"]]
