"""A promotion, a rollback, a registry that is down, and a shadow, without HTTP and without MLflow."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from flows.cli.scoring_leftovers import DAY_S, plan_gc_of_scoring
from flows.serve.app import health
from flows.serve.reviews import Asked, Review
from flows.serve.shadow import DifferenceLog, Shadow
from flows.serve.watch import PATIENCE, Watch, begin
from tasks.core.errors import RegistryError
from tasks.settings import load_settings
from tests.support.served_models import NAME, Shelf, register_all, request, watched


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(champion="1")


def asked(**given: object) -> list[Asked]:
    return [Asked([Review(**request(**given))])]


def version_of(watch: Watch) -> str:
    return watch.served.predict(asked())[0][0].model_version


def number(watch: Watch, name: str, **labels: str) -> float:
    return watch.served.measures.registry.get_sample_value(name, labels) or 0.0


def test_a_promotion_and_a_rollback_take_over(shelf: Shelf, tmp_path: Path) -> None:
    watch = watched(shelf, tmp_path)
    before = watch.served.predict(asked())[0][0].prediction
    shelf.aliases["champion"] = "2"
    watch.poll()
    after = watch.served.predict(asked())[0][0]
    assert after.model_version == "2"
    assert after.prediction != before
    shelf.aliases["champion"] = "1"
    watch.poll()
    watch.poll()
    assert watch.served.predict(asked())[0][0].prediction == before
    assert shelf.loads == ["1", "2", "1"]  # a poll without news loads nothing
    assert number(watch, "raymill_swaps_total") == 3


def test_a_registry_that_is_down_changes_nothing_and_is_told(shelf: Shelf, tmp_path: Path) -> None:
    watch = watched(shelf, tmp_path)
    shelf.down = RegistryError("MLflow does not answer")
    shelf.aliases["champion"] = "2"
    watch.poll()
    assert version_of(watch) == "1"
    assert health(watch)["status"] == "ok"
    assert health(watch)["registry"]["problem"] == "MLflow does not answer"
    assert number(watch, "raymill_registry_up") == 0
    shelf.down = None
    watch.poll()
    assert version_of(watch) == "2"
    assert health(watch)["registry"]["problem"] is None


def test_no_champion_any_more_changes_nothing(shelf: Shelf, tmp_path: Path) -> None:
    watch = watched(shelf, tmp_path)
    del shelf.aliases["champion"]
    watch.poll()
    assert version_of(watch) == "1"
    assert "no version is champion" in health(watch)["registry"]["problem"]


def test_a_version_that_cannot_be_loaded_is_told_and_tried_again_later(shelf: Shelf, tmp_path: Path) -> None:
    watch = watched(shelf, tmp_path)
    good, shelf.folders["2"] = shelf.folders["2"], tmp_path / "nothing"
    shelf.aliases["champion"] = "2"
    for _ in range(PATIENCE):
        watch.poll()
    assert version_of(watch) == "1"
    assert health(watch)["registry"]["problem"].startswith("version 2 cannot be loaded")
    assert shelf.loads == ["1", "2"]
    shelf.folders["2"] = good
    watch.poll()
    watch.poll()
    assert version_of(watch) == "2"
    assert health(watch)["registry"]["problem"] is None


def test_a_version_that_is_left_alone_is_told_again_after_a_rollback(shelf: Shelf, tmp_path: Path) -> None:
    watch = watched(shelf, tmp_path)
    shelf.folders["2"] = tmp_path / "nothing"
    problems = []
    for version in ("2", "1", "2"):
        shelf.aliases["champion"] = version
        watch.poll()
        problems.append(health(watch)["registry"]["problem"])
    assert shelf.loads == ["1", "2"]
    assert problems[1] is None
    assert problems[0] == problems[2] is not None


def test_a_shadow_predicts_the_same_and_its_differences_are_logged(shelf: Shelf, tmp_path: Path) -> None:
    shelf.aliases["challenger"] = "2"
    watch = watched(shelf, tmp_path, shadow="challenger")
    shadow = watch.served.shadow
    assert shadow is not None
    shadow.stop()  # this thread does its work
    batch = [Asked([Review(**request(review_id=f"R{i}", text="bad " * i)) for i in range(5)])]
    found = watch.served.champion.predict(batch)
    shadow.compare(batch, found)
    lines = [json.loads(line) for line in (tmp_path / "shadow.jsonl").read_text().splitlines()]
    assert [line["review_id"] for line in lines] == [f"R{i}" for i in range(5)]
    assert {(line["champion"], line["shadow"]) for line in lines} == {("1", "2")}
    for line in lines:
        assert line["difference"] == line["shadow_prediction"] - line["champion_prediction"]
    assert number(watch, "raymill_shadow_reviews_total", outcome="scored") == 5
    assert number(watch, "raymill_shadow_difference_sum") == pytest.approx(sum(abs(x["difference"]) for x in lines))
    assert number(watch, "raymill_shadow_minus_champion_sum") == pytest.approx(sum(x["difference"] for x in lines))


def test_a_shadow_that_fails_or_falls_behind_harms_nobody(shelf: Shelf, tmp_path: Path) -> None:
    shelf.aliases["challenger"] = "2"
    watch = watched(shelf, tmp_path, shadow="challenger")
    assert watch.served.shadow is not None
    watch.served.shadow.stop()
    broken = Shadow(shelf.load("2"), watch.served.measures, DifferenceLog(tmp_path / "no.jsonl", 1))  # not started
    broken.model.scorer = None  # type: ignore[assignment]
    watch.served.shadow = broken
    for _ in range(20):
        assert version_of(watch) == "1"
    assert number(watch, "raymill_shadow_reviews_total", outcome="dropped") == 12
    broken.compare(asked(), watch.served.champion.predict(asked()))
    assert number(watch, "raymill_shadow_reviews_total", outcome="failed") == 1


def test_a_shadow_ends_with_its_promotion_and_another_begins(shelf: Shelf, tmp_path: Path) -> None:
    shelf.aliases["challenger"] = "2"
    watch = watched(shelf, tmp_path, shadow="challenger")
    assert health(watch)["shadow"]["version"] == "2"
    shelf.aliases["champion"] = "2"
    watch.poll()
    assert (version_of(watch), health(watch)["shadow"]) == ("2", None)
    shelf.aliases["challenger"] = "1"
    watch.poll()
    assert health(watch)["shadow"]["version"] == "1"
    watch.stop()


def test_a_version_of_another_target_is_never_served(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    register_all(uri, tmp_path / "versions")
    given = [f"registry.model_name={NAME}", f"tracking.uri={uri}", f"storage.root={tmp_path}"]
    other = load_settings(overrides=[*given, "features.target=positive"])
    for wanted in ("champion", "1"):
        with pytest.raises(RegistryError, match=r"version 1 of .* predicts the target rating, not positive") as told:
            begin(other, wanted)
        assert "--set features.target=rating" in str(told.value)
    begin(load_settings(overrides=given), "champion")  # and leaves a copy and a note, for a start without the registry
    (tmp_path / "mlflow.db").rename(tmp_path / "moved.db")
    with pytest.raises(RegistryError, match="predicts the target rating"):
        begin(other, "champion")


def test_a_version_that_was_deleted_is_served_no_more(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = register_all(uri, tmp_path / "versions")
    settings = load_settings(overrides=["data.name=toys", f"tracking.uri={uri}", f"storage.root={tmp_path}"])
    watch = begin(settings, "2")
    assert version_of(watch) == "2"
    client.delete_model_version(NAME, "2")
    watch.poll()
    assert "no version is 2" in health(watch)["registry"]["problem"]
    with pytest.raises(RegistryError, match="is 2"):
        begin(settings, "2")


def test_old_copies_of_models_go_but_for_what_was_served_last(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = register_all(uri, tmp_path / "versions")
    settings = load_settings(overrides=["data.name=toys", f"tracking.uri={uri}", f"storage.root={tmp_path}"])
    watch = begin(settings, "champion")
    client.set_registered_model_alias(NAME, "champion", "2")
    watch.poll()
    models = tmp_path / "score" / "models"
    for copy in models.iterdir():
        os.utime(copy, (copy.stat().st_mtime - 2 * DAY_S,) * 2)
    assert [Path(removal.path) for removal in plan_gc_of_scoring(settings)] == [*models.glob(f"{NAME}-1-*")]


def test_mlflow_is_followed_and_a_start_without_it_serves_what_was_champion_last(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = register_all(uri, tmp_path / "versions")
    client.set_registered_model_alias(NAME, "challenger", "1")
    given = ["data.name=toys", f"tracking.uri={uri}", f"storage.root={tmp_path}", "serve.shadow=challenger"]
    settings = load_settings(overrides=given)
    watch = begin(settings, "champion")
    assert version_of(watch) == "1"
    client.set_registered_model_alias(NAME, "champion", "2")
    watch.poll()
    assert (version_of(watch), health(watch)["shadow"]["version"]) == ("2", "1")
    watch.stop()
    with pytest.raises(RegistryError, match="is nobody"):
        begin(settings, "nobody")

    (tmp_path / "mlflow.db").rename(tmp_path / "moved.db")
    watch.poll()
    assert "there is no database" in health(watch)["registry"]["problem"]
    watch = begin(settings, "champion")
    assert version_of(watch) == "2"
    assert "there is no database" in health(watch)["registry"]["problem"]
    assert not (tmp_path / "mlflow.db").exists()
    with pytest.raises(RegistryError, match="there is no database"):
        begin(settings, "challenger")  # was never served


def test_the_log_of_differences_is_bounded(tmp_path: Path) -> None:
    log = DifferenceLog(tmp_path / "a" / "shadow.jsonl", 4_000)
    for i in range(300):
        log.add([{"line": i, "fill": "x" * 40}])
    files = sorted(file for file in (tmp_path / "a").iterdir() if file.suffix != ".lock")
    assert [file.name for file in files] == ["shadow.jsonl", "shadow.jsonl.1"]
    assert all(file.stat().st_size <= 4_000 for file in files)
    assert json.loads(files[0].read_text().splitlines()[-1])["line"] == 299
