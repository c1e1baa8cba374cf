"""Nights of `raymill score` and the watch over them: a usual one, a shifted one, and stars that come late."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import mlflow
import polars as pl
import pytest
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

from flows.run.retraining import started
from flows.run.watched_nights import read_nights
from tasks.core.snapshots import Snapshot
from tests.support.browser import CHROMIUM, text_of
from tests.support.pipeline import Finished, Place
from tests.support.prefect_server import connected
from tests.support.webhook import Hook, listening

pytestmark = pytest.mark.slow
RETRAIN = ("--set", "retrain.when=[expected]")
SETTINGS = ("--set", "watch.min_rows=40", "--set", "watch.max_unpriced=null")


def last(place: Place, stage: str) -> Snapshot:
    return max((s for s in place.store if s.stage == stage), key=lambda s: s.manifest.committed_at)


class Nights:
    """Nights of one champion, scored one after the other into one storage."""

    def __init__(self, place: Place, server: str, folder: Path, hook: Hook) -> None:
        self.place, self.server, self.folder, self.hook = place, server, folder, hook
        self.root = place.root / "data" / "score"
        raw = pl.concat([pl.read_parquet(file) for file in sorted(place.reviews.rglob("*.parquet"))])
        scores = pl.DataFrame(pl.from_arrow(last(place, "evaluate").read(columns=["review_id", "tuned"])))
        raw = raw.filter(~pl.col("review_id").is_duplicated())
        self.tested = raw.join(scores, on="review_id").sort("tuned")

    def score(self, name: str, rows: pl.DataFrame, *arguments: str, **variables: str) -> tuple[dict[str, Any], str]:
        """Score these raw reviews as a night; returns the run's record and what it printed."""
        (self.folder / name).mkdir(exist_ok=True)
        rows.drop("tuned", strict=False).write_parquet(self.folder / name / "reviews.parquet")
        done = self.place.call(
            *("score", "--input", str(self.folder / name), "--out", str(self.folder / f"{name}-out")),
            *("--json", str(self.folder / f"{name}.json"), *SETTINGS, *arguments),
            PREFECT_API_URL=self.server,
            RAYMILL__NOTIFY__WEBHOOK=self.hook.url,
            **variables,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads((self.folder / f"{name}.json").read_text()), done.stdout


@pytest.fixture(scope="module")
def nights(finished: Finished, server: str, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with listening() as hook:
        yield Nights(finished.place, server, tmp_path_factory.mktemp("nights"), hook)


@pytest.fixture(scope="module")
def usual(nights: Nights) -> dict[str, Any]:
    """A night of the test slice's reviews, without their stars."""
    record, _ = nights.score("usual", nights.tested.drop("star_rating"))
    return record


@pytest.fixture
def deployment(server: str) -> Iterator[UUID]:
    """etl-train/default on the server, which nobody works for."""
    with connected() as client:
        made = client.create_deployment(client.create_flow_from_name("etl-train"), name="default")
        yield made
        for run in client.read_flow_runs(deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[made]))):
            client.delete_flow_run(run.id)
        client.delete_deployment(made)


def test_a_night_like_the_test_slice_costs_what_the_test_slice_does(nights: Nights, usual: dict[str, Any]) -> None:
    found = usual["watched"]["found"]
    loss = last(nights.place, "evaluate").facts["measures"]["tuned"]["rmse"]["value"]
    assert found["reference_loss"] == pytest.approx(loss)
    assert found["expected_loss"] == pytest.approx(loss)
    assert (found["warnings"], found["told"], found["unpriced"]) == ([], [], 0)
    assert found["prediction_psi"] == pytest.approx(0)
    assert found["realised_rows"] == 0
    assert nights.hook.posted == []


def test_a_night_of_what_the_model_is_bad_at_is_told_by_the_webhook_the_run_and_mlflow(
    nights: Nights, usual: dict[str, Any], deployment: UUID
) -> None:
    low = nights.tested.head(len(nights.tested) // 2)  # where most stars are many, errors are large among the low
    shifted = pl.concat([low.with_columns(review_id=pl.format("{}-{}", "review_id", pl.lit(i))) for i in range(8)])
    record, said = nights.score("shifted", shifted.drop("star_rating"), *RETRAIN)
    found = record["watched"]["found"]
    assert [warned["expectation"] for warned in found["warnings"]] == ["expected loss"]
    assert found["expected_loss"] > 1.1 * found["reference_loss"]
    assert "warning: watch: expected loss" in said
    message, training = nights.hook.posted
    assert (message["event"], message["rows"], message["version"]) == ("drifted", len(shifted), "1")
    assert (training["event"], training["kind"]) == ("retraining", "expected")
    assert any(name.startswith("prediction") for name in message["moved"])
    client = mlflow.MlflowClient(nights.place.database)
    metrics = client.get_run(record["mlflow_run"]).data.metrics
    assert metrics["watch/expected_loss"] == pytest.approx(found["expected_loss"])
    assert metrics["watch/warnings"] == 1
    nights.score("shifted", shifted.drop("star_rating"), *RETRAIN)
    assert len(nights.hook.posted) == 2  # the same night is told once, and trained for once
    with connected() as prefect:
        of_it = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
        (run,) = prefect.read_flow_runs(deployment_filter=of_it)
        assert started(nights.root.parent)[0]["flow_run_id"] == str(run.id)


def test_stars_that_come_later_are_joined_with_the_night_and_three_rows_warn_of_nothing(
    nights: Nights, usual: dict[str, Any]
) -> None:
    record, said = nights.score("three", nights.tested.head(3))
    assert "3 rows are fewer than watch.min_rows" in said
    (night,) = [one for one in read_nights(nights.root) if one.run_id == usual["run_id"]]
    assert night.found["realised_rows"] == 3
    later = nights.tested[1:]
    record, _ = nights.score("stars", later)
    assert record["watched"]["found"]["realised_rows"] == len(later)
    (night,) = [one for one in read_nights(nights.root) if one.run_id == usual["run_id"]]
    loss = float(((later["tuned"] - later["star_rating"]) ** 2).mean()) ** 0.5  # type: ignore[arg-type]
    assert night.found["realised_rows"] == len(later)
    assert night.found["realised_loss"] == pytest.approx(loss, rel=1e-5)
    metrics = mlflow.MlflowClient(nights.place.database).get_run(usual["mlflow_run"]).data.metrics
    assert metrics["watch/realised_loss"] == pytest.approx(loss, rel=1e-5)


def test_a_watch_that_fails_leaves_a_completed_run(nights: Nights, usual: dict[str, Any]) -> None:
    broken = {"RAYMILL_KILL_AT": "watch:before-run", "RAYMILL_FAULT": "EIO"}
    record, _ = nights.score("unwatched", nights.tested.head(20), **broken)
    assert (record["state"], [row["stage"] for row in record["stages"]]) == ("completed", ["read-new", "score"])
    assert (record.get("failed"), record.get("watched")) == (None, None)


def test_a_night_without_reviews_and_a_model_without_a_reference_are_told(
    nights: Nights, usual: dict[str, Any]
) -> None:
    record, said = nights.score("none", nights.tested.head(0).drop("star_rating"))
    assert record["watched"]["rows"] == 0
    assert "nothing to watch" in said
    for folder in (nights.root / "models").iterdir():
        (folder / "reference" / "about.json").unlink()
    record, said = nights.score("older", nights.tested.head(60))
    assert "has no reference to watch by" in said
    assert record["watched"]["found"]["expected_loss"] is None


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")
def test_the_page_over_nights_shows_them(nights: Nights, usual: dict[str, Any]) -> None:
    page = (nights.root / "nights.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    text = text_of((nights.root / "nights.html").as_uri())
    for words in ("Nights of raymill-amazon-us-rating", "Seconds by stage", "version 1 of raymill-amazon-us-rating is"):
        assert words in text
