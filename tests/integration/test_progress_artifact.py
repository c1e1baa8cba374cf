"""A stage's progress in a real Prefect: what its page shows while a run goes on, and after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact

from flows.run.context import Run
from flows.run.opening import open_run
from flows.run.progress import FINISH_S
from flows.run.stage_task import StageTask, together
from tasks.core.errors import TransientError
from tasks.core.snapshots import SnapshotWriter
from tasks.core.stage import stage
from tasks.settings import Settings, load_settings
from tasks.stages.tokenize import TokenizeConfig
from tests.support.mlflow_database import new_database

pytestmark = pytest.mark.slow


def report(out: SnapshotWriter, *, until: int = 4) -> None:
    for part in range(1, until + 1):
        out.progress(10_000 * part, 40_000, tokens=775_000 * part)
    out.write_bytes(f"{out.stage}.bin", b"x")


@stage(version=1, config=TokenizeConfig, name="tokenize")
def tokens(config: TokenizeConfig, out: SnapshotWriter) -> None:
    report(out)


@stage(version=1, config=TokenizeConfig, name="count-words", section="tokenize")
def words(config: TokenizeConfig, out: SnapshotWriter) -> None:
    report(out)


TRIED: list[str] = []


@stage(version=1, config=TokenizeConfig, name="clean", section="tokenize", retries=1)
def tried_twice(config: TokenizeConfig, out: SnapshotWriter) -> None:
    TRIED.append("clean")
    report(out, until=2 if len(TRIED) == 1 else 4)
    if len(TRIED) == 1:
        raise TransientError("the store did not answer", where="clean")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A run without Ray and validators, whose toy stages need neither."""
    monkeypatch.setattr(Run, "prepare", lambda self: None)
    monkeypatch.setattr(Run, "validate", lambda self, stage, out: {})
    database = new_database(tmp_path / "mlflow.db")
    return load_settings(
        overrides=[f"storage.root={tmp_path / 'data'}", f"tracking.uri={database}", "retries.first_delay_s=0"]
    )


@pytest.fixture
def every_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toy stages take no time: let Prefect have every report, and be waited for."""
    monkeypatch.setattr("flows.run.progress.ARTIFACT_EVERY_S", 0.0)
    monkeypatch.setattr("flows.run.progress.FINISH_S", 20 * FINISH_S)


def run(settings: Settings, stages: Callable[[], Any]) -> str:
    """Run the stages as a flow; returns the flow run's id."""

    @flow(name="progress", persist_result=False)
    def progress() -> str:
        from prefect.runtime import flow_run

        with open_run(settings):
            stages()
        return str(flow_run.id)

    return progress()


def artifacts(flow_run: str, key: str) -> list[Artifact]:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    return [a for a in found if str(a.flow_run_id) == flow_run]


@pytest.mark.usefixtures("server", "every_report")
def test_each_of_two_stages_side_by_side_leaves_one_artifact_at_100_percent(settings: Settings) -> None:
    flow_run = run(settings, lambda: together((StageTask(words),), (StageTask(tokens),)))
    made = {key: artifacts(flow_run, key) for key in ("count-words", "tokenize")}
    assert [len(found) for found in made.values()] == [1, 1]
    for (artifact,) in made.values():
        assert (artifact.type, artifact.data) == ("progress", 100.0)
        assert (artifact.description or "").startswith("40,000 rows, 3.1 M tokens in 0:0")
    assert len({found[0].task_run_id for found in made.values()} - {None}) == 2


@pytest.mark.usefixtures("server", "every_report")
def test_a_stage_tried_again_leaves_one_artifact_too(settings: Settings) -> None:
    TRIED.clear()
    flow_run = run(settings, lambda: StageTask(tried_twice)())
    assert [a.data for a in artifacts(flow_run, "clean")] == [100.0]
    assert len(TRIED) == 2


@pytest.mark.usefixtures("server")
def test_a_short_stage_and_a_reused_one_leave_none(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.run.progress.ARTIFACT_EVERY_S", 3600.0)
    assert artifacts(run(settings, lambda: StageTask(tokens)()), "tokenize") == []
    monkeypatch.setattr("flows.run.progress.ARTIFACT_EVERY_S", 0.0)
    assert artifacts(run(settings, lambda: StageTask(tokens)()), "tokenize") == []
