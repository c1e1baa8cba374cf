"""One whole run as a user starts it, and what it leaves behind: the slowest tests, sharing one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tasks.sources.synth import synthesize

pytestmark = pytest.mark.slow
ROWS = 3_000
SMALL = {
    "tune.trials": 3,
    "tune.max_rounds": 20,
    "tune.min_rounds": 10,
    "train.rounds": 10,
    "features.text_score.dimensions": 4096,
    "features.text_score.borders": [0.3, 0.6],
    "registry.gates.min_gain_over_linear": "null",  # so few trees need not beat it
}
NOT_ASKED_FOR = ("ingest-items", "items", "pack-tokens", "embeddings")
DONE_IN_ORDER = (
    "ingest", "clean", "describe", "near-duplicates", "count-words", "tokenize", "language-model", "features", "split",
    "train", "tune", "refit", "evaluate", "register", "report",
)  # fmt: skip


@dataclass
class Place:
    """A user's folder: reviews in, everything a run writes."""

    root: Path

    def raymill(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.cli.main", *arguments, *self.settings()]
        env = {**os.environ, "COLUMNS": "200"}
        return subprocess.run(command, capture_output=True, text=True, timeout=500, env=env)

    def settings(self, **more: Any) -> list[str]:
        given = {"storage.root": self.root / "data", "tracking.uri": self.database, **SMALL, **more}
        return [word for name, value in given.items() for word in ("--set", f"{name}={value}")]

    def run(self, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
        summary = self.root / "summary.json"
        done = self.raymill("run", "--input", str(self.root / "reviews"), "--json", str(summary), *arguments)
        assert done.returncode == 0, done.stderr[-3000:]
        return done, json.loads(summary.read_text())

    @property
    def database(self) -> str:
        return f"sqlite:///{self.root / 'mlruns' / 'mlflow.db'}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("place"))
    synthesize(ROWS, 7, place.root / "reviews")
    return place


@pytest.fixture(scope="module")
def first(place: Place) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    return place.run()


@pytest.fixture(scope="module")
def second(place: Place, first: Any) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    return place.run()


def test_every_stage_runs_and_no_row_is_lost(first: Any) -> None:
    stages = {s["stage"]: s for s in first[1]["stages"]}
    assert tuple(stages) == DONE_IN_ORDER
    assert stages["ingest"]["rows_in"] == ROWS
    assert stages["ingest"]["rows"] + stages["ingest"]["rejected"] == ROWS
    assert 0 < stages["ingest"]["rejected"] < ROWS / 50
    assert stages["clean"]["rows"] + stages["clean"]["repeated"] == stages["ingest"]["rows"]
    assert stages["features"]["rows"] == stages["tokenize"]["rows"] == stages["clean"]["rows"]
    assert stages["split"]["rows_in"] == stages["features"]["rows"]
    assert 0.9 * stages["features"]["rows"] < stages["split"]["rows"] <= stages["features"]["rows"]


def test_the_model_learns_and_the_run_says_how_much(first: Any) -> None:
    done, summary = first
    rmse = summary["metrics"]["rmse"]
    assert rmse["tuned"] < 0.95 * rmse["mean"]
    for said in ("predict-the-mean", f"{rmse['tuned']:.4f}", "report.html", "index.html", "mlflow.db", "is champion"):
        assert said in done.stdout


def test_the_second_run_does_no_stage_again_and_says_so(first: Any, second: Any) -> None:
    done, summary = second
    assert all(s["reused"] for s in summary["stages"])
    assert "every stage was reused" in done.stdout
    digests = [[s["digest"] for s in run["stages"]] for run in (first[1], summary)]
    assert digests[0] == digests[1]


def test_a_changed_section_redoes_only_what_depends_on_it(place: Place, second: Any) -> None:
    _, summary = place.run("--set", "evaluate.short_chars=100", "--until", "evaluate")
    redone = [s["stage"] for s in summary["stages"] if not s["reused"]]
    assert redone == ["evaluate"]
    assert summary["stages"][-1]["stage"] == "evaluate"


def test_report_and_data_docs_are_there_and_the_page_needs_no_network(first: Any) -> None:
    page = Path(first[1]["report"]).read_text()
    assert first[1]["run_id"] in page
    assert 'src="http' not in page
    assert Path(first[1]["data_docs"]).exists()


def test_mlflow_has_a_parent_run_children_and_a_grandchild_per_trial(place: Place, first: Any) -> None:
    client = MlflowClient(place.database, place.database)
    parent = client.get_run(first[1]["mlflow_run"])
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["snapshot.clean"] == first[1]["stages"][1]["digest"]
    assert parent.data.tags["raymill.config_digest"]
    assert parent.inputs.dataset_inputs
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


def test_the_registered_model_is_ubj_with_signature_and_example(place: Place, first: Any) -> None:
    import mlflow

    client = MlflowClient(place.database, place.database)
    versions = [client.get_model_version_by_alias("raymill-rating", a).version for a in ("champion", "challenger")]
    assert [str(v) for v in versions] == ["1", "1"]
    mlflow.set_tracking_uri(place.database)
    mlflow.set_registry_uri(place.database)
    loaded = mlflow.pyfunc.load_model("models:/raymill-rating@champion")
    assert loaded.metadata.signature.inputs.input_names() == [i.name for i in loaded.metadata.get_input_schema().inputs]
    assert "text_score" in loaded.metadata.signature.inputs.input_names()
    assert loaded.metadata.flavors["xgboost"]["model_format"] == "ubj"
    assert loaded.metadata.saved_input_example_info is not None


def test_a_run_is_not_registered_twice(place: Place, second: Any) -> None:
    client = MlflowClient(place.database, place.database)
    assert len(client.search_model_versions("name='raymill-rating'")) == 1


def test_snapshots_are_listed_with_what_they_were_made_from(place: Place, first: Any) -> None:
    listed = place.raymill("snapshots").stdout
    clean = next(s for s in first[1]["stages"] if s["stage"] == "clean")
    assert clean["digest"][:12] in listed
    assert f"clean@{clean['digest'][:8]}" in listed


def test_gc_spares_what_a_model_or_a_recent_run_needs_and_removes_the_rest(place: Place, second: Any) -> None:
    assert "0 removed" in place.raymill("gc").stdout
    orphan = next((place.root / "data" / "snapshots" / "clean").iterdir()) / "attempt-dead"
    orphan.mkdir()
    (orphan / "part-00000.parquet").write_bytes(b"half written")
    assert "attempt of a process that is gone" in place.raymill("gc", "--dry-run").stdout
    assert orphan.exists()
    assert "1 removed" in place.raymill("gc").stdout
    assert not orphan.exists()


def test_models_are_listed_and_promoted_by_hand(place: Place, second: Any) -> None:
    assert "champion" in place.raymill("models", "list").stdout
    refused = place.raymill("models", "promote", "99")
    assert refused.returncode == 2
    assert "no version 99" in refused.stderr
    assert "is champion" in place.raymill("models", "promote", "1").stdout
