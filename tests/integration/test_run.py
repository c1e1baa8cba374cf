"""One whole run as a user starts it, what it leaves behind, and what a second one makes of that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from flows.run.names import stage_names
from tests.support.pipeline import ROWS, SMALL, Finished, Place, not_asked_for

pytestmark = pytest.mark.slow

# What a run on a laptop needs: the command, Prefect's server, Ray's own seven (raylet, GCS, dashboard, two agents, log
# monitor, autoscaler), a validator, two actors of the pool, one for trials, a controller, for each of two trainings a
# worker and its synchronisation.
NEEDED = 18
# Workers for tasks: two, those that the trainings and trials began as, and some that Ray starts too early to be of use.
WORKERS = 7


@pytest.fixture(scope="module")
def place(finished: Finished) -> Place:
    return finished.place


@pytest.fixture(scope="module")
def first(finished: Finished) -> dict[str, Any]:
    return finished.summary


@pytest.fixture(scope="module")
def run_again(place: Place, server: str, ray_session: None) -> Callable[..., tuple[str, dict[str, Any]]]:
    def run(*arguments: str) -> tuple[str, dict[str, Any]]:
        done = place.call("run", *arguments, PREFECT_API_URL=server)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout, place.summary

    return run


@pytest.fixture(scope="module")
def second(run_again: Any) -> tuple[str, dict[str, Any]]:
    found: tuple[str, dict[str, Any]] = run_again()
    return found


def test_every_stage_runs_and_no_row_is_lost(first: dict[str, Any]) -> None:
    stages = {s["stage"]: s for s in first["stages"]}
    assert set(stages) == stage_names() - not_asked_for()
    assert stages["ingest"]["rows_in"] == ROWS
    assert stages["ingest"]["rows"] + stages["ingest"]["rejected"] == ROWS
    assert 0 < stages["ingest"]["rejected"] < ROWS / 50
    assert stages["clean"]["rows"] + stages["clean"]["repeated"] == stages["ingest"]["rows"]
    assert stages["features"]["rows"] == stages["tokenize"]["rows"] == stages["clean"]["rows"]
    assert stages["split"]["rows_in"] == stages["features"]["rows"]
    assert 0.9 * stages["features"]["rows"] < stages["split"]["rows"] <= stages["features"]["rows"]


def test_a_small_run_starts_no_more_processes_than_it_needs(finished: Finished) -> None:
    others = {"ray::IDLE", "git"}  # git is over in a moment, and seldom seen
    needed = sum(number for kind, number in finished.processes.items() if kind not in others)
    assert needed <= NEEDED, finished.said[-2000:]
    assert finished.processes["ray::IDLE"] <= WORKERS, finished.said[-2000:]


def test_a_stage_comes_after_those_that_it_is_made_from(place: Place, first: dict[str, Any]) -> None:
    order = ["source", *(row["stage"] for row in first["stages"])]
    for snapshot in place.store:
        assert {i.stage for i in snapshot.manifest.inputs} <= set(order[: order.index(snapshot.stage)]), snapshot.stage


def test_the_model_learns_and_the_run_says_how_much(finished: Finished) -> None:
    rmse = finished.summary["metrics"]["rmse"]
    assert rmse["tuned"] < 0.95 * rmse["mean"]
    for said in ("predict-the-mean", f"{rmse['tuned']:.4f}", "report.html", "index.html", "mlflow.db", "is champion"):
        assert said in finished.said


def test_the_second_run_does_no_stage_again_and_says_so(first: Any, second: Any) -> None:
    said, summary = second
    assert all(s["reused"] for s in summary["stages"])
    assert "every stage was reused" in said
    digests = [[s["digest"] for s in run["stages"]] for run in (first, summary)]
    assert digests[0] == digests[1]


def test_a_changed_section_redoes_only_what_depends_on_it(run_again: Any, second: Any) -> None:
    _, summary = run_again("--set", "evaluate.short_chars=100", "--until", "evaluate")
    redone = [s["stage"] for s in summary["stages"] if not s["reused"]]
    assert redone == ["evaluate"]
    assert summary["stages"][-1]["stage"] == "evaluate"


def test_report_and_data_docs_are_there_and_the_page_needs_no_network(first: dict[str, Any]) -> None:
    page = Path(first["report"]).read_text()
    assert first["run_id"] in page
    assert 'src="http' not in page
    assert Path(first["data_docs"]).exists()


def test_mlflow_has_a_parent_run_children_and_a_grandchild_per_trial(place: Place, first: dict[str, Any]) -> None:
    client = MlflowClient(place.database, place.database)
    parent = client.get_run(first["mlflow_run"])
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["snapshot.clean"] == first["stages"][1]["digest"]
    assert parent.data.tags["raymill.config_digest"]
    assert parent.inputs.dataset_inputs
    metrics = parent.data.metrics
    used = [metrics[f"{row['stage']}/cpu_seconds"] for row in first["stages"] if row["key"]]
    assert 0 < sum(used) <= metrics["run/cpu_seconds"]
    assert max(row["peak_mb"] for row in first["stages"]) <= metrics["run/peak_memory_mb"]
    assert {f.path for f in client.list_artifacts(parent.info.run_id, "plots")} >= {"plots/ratings.png"}

    def below(run_id: str) -> dict[str, Any]:
        found = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{run_id}'")
        return {run.info.run_name: run for run in found}

    children = below(parent.info.run_id)
    assert set(children) == {"train", "tune", "refit", "register"}
    trials = below(children["tune"].info.run_id)
    assert set(trials) == {f"trial {i}" for i in range(SMALL["tune.trials"])}
    history = client.get_metric_history(trials["trial 0"].info.run_id, "valid_rmse")
    assert [point.step for point in history] == list(range(len(history)))
    assert min(point.value for point in history) == trials["trial 0"].data.metrics["best_valid_rmse"]
    assert len({(frozenset(t.data.params), frozenset(t.data.metrics)) for t in trials.values()}) == 1
    pictures = client.list_artifacts(children["tune"].info.run_id, "plots")
    assert "plots/parallel_coordinates.png" in {file.path for file in pictures}


def test_the_registered_model_is_champion_and_challenger(place: Place, first: dict[str, Any]) -> None:
    client = MlflowClient(place.database, place.database)
    versions = [
        client.get_model_version_by_alias("raymill-amazon-us-rating", a).version for a in ("champion", "challenger")
    ]
    assert [str(v) for v in versions] == ["1", "1"]


def test_a_run_is_not_registered_twice(place: Place, second: Any) -> None:
    client = MlflowClient(place.database, place.database)
    assert len(client.search_model_versions("name='raymill-amazon-us-rating'")) == 1


def test_snapshots_are_listed_with_what_they_were_made_from(place: Place, first: dict[str, Any]) -> None:
    listed = place.call("snapshots").stdout
    clean = next(s for s in first["stages"] if s["stage"] == "clean")
    assert clean["digest"][:12] in listed
    assert f"clean@{clean['digest'][:8]}" in listed


def test_gc_spares_what_a_model_or_a_recent_run_needs_and_removes_the_rest(place: Place, second: Any) -> None:
    assert "0 removed" in place.call("gc").stdout
    orphan = next((place.root / "data" / "snapshots" / "clean").iterdir()) / "attempt-dead"
    orphan.mkdir()
    (orphan / "part-00000.parquet").write_bytes(b"half written")
    assert "attempt of a process that is gone" in place.call("gc", "--dry-run").stdout
    assert orphan.exists()
    assert "1 removed" in place.call("gc").stdout
    assert not orphan.exists()


def test_models_are_listed_and_promoted_by_hand(place: Place, second: Any) -> None:
    assert "champion" in place.call("models", "list").stdout
    refused = place.call("models", "promote", "99")
    assert refused.returncode == 2
    assert "no version 99" in refused.stderr
    assert "is champion" in place.call("models", "promote", "1").stdout


def test_a_night_unlike_the_last_ones_is_told_of_in_every_place(
    place: Place, first: dict[str, Any], run_again: Any
) -> None:
    assert [row["validation"]["warnings"] for row in first["stages"] if row["key"]] == [[]] * 17
    for night in range(1, 8):
        stages = []
        for row in first["stages"]:
            numbers = {name: value * 3 for name, value in row["validation"].get("numbers", {}).items()}
            # A digest of its own: a snapshot that nights reuse is one night.
            own = {"digest": f"{night:032x}", "validation": {**row["validation"], "numbers": numbers}}
            stages.append({**row, **own})
        about = {"run_id": f"20200101-04300{night}-past", "started": f"2020-01-0{night}T04:30:00+00:00"}
        record = {**first, **about, "stages": stages}
        (place.root / "data" / "runs" / f"{record['run_id']}.json").write_text(json.dumps(record))
    said, summary = run_again("--until", "clean")
    numbers = first["stages"][1]["validation"]["numbers"]
    assert {"rows", "mean of rating"} <= set(numbers)
    clean = summary["stages"][1]
    assert clean["reused"]
    told = {warned["expectation"]: warned for warned in clean["validation"]["warnings"]}
    assert told["rows"]["value"] == f"{clean['rows']:,}"
    assert told["rows"]["limit"].endswith("by 7 nights")
    assert f"clean: rows: {clean['rows']:,}; limit: {told['rows']['limit']}" in said
    metrics = MlflowClient(place.database, place.database).get_run(summary["mlflow_run"]).data.metrics
    assert metrics["clean/warnings"] == len(told)
    assert metrics["run/warnings"] >= len(told)
