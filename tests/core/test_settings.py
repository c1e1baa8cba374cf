"""Settings: four layers in a fixed order, and a mistake in any of them is named, with what was meant."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError, model_validator

from tasks.core import settings as subject
from tasks.core.digests import digest_of
from tasks.core.errors import SettingsError
from tasks.core.sections import PROJECT
from tasks.core.settings import CONF
from tasks.settings import CommonSettings, load_settings


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A conf folder of the test's own, with the real base.yaml."""
    (tmp_path / "profiles").mkdir()
    shutil.copy(subject.CONF / "base.yaml", tmp_path / "base.yaml")
    monkeypatch.setattr(subject, "CONF", tmp_path)
    return tmp_path


def test_later_layers_win(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = load_settings()
    (conf / "profiles" / "night.yaml").write_text("tune: {trials: 101, max_rounds: 102, min_rounds: 103, seed: 104}")
    monkeypatch.setenv("RAYMILL__TUNE__MAX_ROUNDS", "202")
    monkeypatch.setenv("RAYMILL__TUNE__MIN_ROUNDS", "203")
    monkeypatch.setenv("RAYMILL__TUNE__SEED", "204")
    tune = load_settings(profile="night", overrides=["tune.min_rounds=303", "tune.seed=304"], tune={"seed": 404}).tune
    assert (tune.trials, tune.max_rounds, tune.min_rounds, tune.seed) == (101, 202, 303, 404)
    assert tune.concurrent == base.tune.concurrent


def test_of_two_overrides_of_one_key_the_last_wins() -> None:
    assert load_settings(overrides=["tune.trials=3", "tune.trials=4"]).tune.trials == 4


def test_the_profile_can_be_named_by_the_environment(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (conf / "profiles" / "night.yaml").write_text("tune: {trials: 101}")
    monkeypatch.setenv("RAYMILL_PROFILE", "night")
    assert load_settings().tune.trials == 101


def test_a_partly_given_section_keeps_its_other_values() -> None:
    base, changed = load_settings(), load_settings(overrides=["features.text_score.borders=[0.3,0.6]"])
    assert changed.features.text_score.borders == [0.3, 0.6]
    assert changed.features.text_score.dimensions == base.features.text_score.dimensions
    assert changed.model_copy(update={"features": base.features}) == base


@pytest.mark.parametrize(
    ("variable", "value", "override"),
    [
        ("RAYMILL__TUNE__TRIALS", "7", "tune.trials=7"),
        ("RAYMILL__FEATURES__TEXT_SCORE__L2", "2.5", "features.text_score.l2=2.5"),
        ("RAYMILL__FEATURES__GROUPS__TEXT", "false", "features.groups.text=false"),
        ("RAYMILL__TOKENIZE__MAX_TOKENS", "null", "tokenize.max_tokens=null"),
        ("RAYMILL__RAY__ADDRESS", "ray://host:1", "ray.address=ray://host:1"),
        ("RAYMILL__TRAIN__PARAMS", '{"max_depth": 3}', "train.params={max_depth: 3}"),
        ("RAYMILL__TRAIN__PARAMS__MAX_DEPTH", "3", "train.params.max_depth=3"),
        ("RAYMILL__TUNE__SPACE__ETA", "[0.1, 0.2]", "tune.space.eta=[0.1, 0.2]"),
    ],
)
def test_a_value_is_the_same_from_the_environment_as_from_set(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, override: str
) -> None:
    # Else the two would make two keys of one configuration, and a stage would run again.
    by_set = load_settings(overrides=[override]).model_dump(mode="json")
    monkeypatch.setenv(variable, value)
    assert digest_of(load_settings().model_dump(mode="json")) == digest_of(by_set)


@pytest.mark.parametrize("layer", ["profile", "environment", "set", "given"])
def test_an_unknown_key_is_refused_in_every_layer_with_what_was_meant(
    conf: Path, monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    arguments: dict[str, Any] = {}
    if layer == "profile":
        (conf / "profiles" / "odd.yaml").write_text("tune: {trails: 3}")
        arguments = {"profile": "odd"}
    elif layer == "environment":
        monkeypatch.setenv("RAYMILL__TUNE__TRAILS", "3")
    elif layer == "set":
        arguments = {"overrides": ["tune.trails=3"]}
    else:
        arguments = {"tune": {"trails": 3}}
    with pytest.raises(SettingsError, match=r"unknown setting 'tune\.trails'") as caught:
        load_settings(**arguments)
    assert "did you mean tune.trials?" in caught.value.fix
    assert caught.value.where


@pytest.mark.parametrize("layer", ["environment", "set"])
def test_an_unknown_section_is_refused(monkeypatch: pytest.MonkeyPatch, layer: str) -> None:
    if layer == "environment":
        monkeypatch.setenv("RAYMILL__TUEN__TRIALS", "3")
    with pytest.raises(SettingsError, match="tuen") as caught:
        load_settings(overrides=["tuen.trials=3"] if layer == "set" else [])
    assert "tune" in caught.value.fix


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("tune.trials=many", "tune.trials"),
        ("tune.trials=0", "tune.trials"),
        ("tune.trials=2.5", "tune.trials"),
        ("tune.trials.deeper=3", "tune.trials"),
        ("tune=3", "tune=3"),
        ("tune.space.eta=[0.3, 0.1]", "low must be below high"),
        ("tune.space.eta=[0.1]", "expected"),
        ("ingest.max_reject_fraction=1.5", "ingest.max_reject_fraction"),
        ("split.train=0.95", "train . valid"),
        ("ray.object_store_mb=", "ray.object_store_mb"),
        ("tune.trials", "section.key=value"),
        ("trials=3", "section.key=value"),
        ("tune.space.eta=[1,", "cannot read the value"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(override: str, named: str) -> None:
    with pytest.raises(SettingsError, match=named) as caught:
        load_settings(overrides=[override])
    assert caught.value.fix or caught.value.where


def test_a_mistake_of_all_settings_together_shows_none_of_them() -> None:
    class Root(CommonSettings):
        @model_validator(mode="before")
        @classmethod
        def _refused(cls, values: Any) -> Any:
            raise ValueError("these do not go together")

    with pytest.raises(SettingsError) as caught:
        subject.load(Root, overrides=["services.auth=admin:correct-horse"])
    assert caught.value.what == "Value error, these do not go together"


def test_xgboosts_own_parameters_are_open() -> None:
    assert load_settings(overrides=["train.params.gamma=0.5"]).train.params["gamma"] == 0.5
    assert load_settings(overrides=["tune.space.gamma=[0, 5]"]).tune.space["gamma"].ends() == (0, 5)


def test_an_unknown_profile_names_those_there_are(conf: Path) -> None:
    (conf / "profiles" / "night.yaml").write_text("tune: {trials: 3}")
    with pytest.raises(SettingsError, match="no profile 'day'") as caught:
        load_settings(profile="day")
    assert "night" in caught.value.fix


@pytest.mark.parametrize("text", ["- a list", "tune: [unclosed", "just words"])
def test_a_profile_that_is_no_mapping_is_refused_by_its_path(conf: Path, text: str) -> None:
    (conf / "profiles" / "odd.yaml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(profile="odd")
    assert caught.value.where.endswith("odd.yaml")


def test_settings_cannot_be_changed_once_made() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.tune.trials = 3
    with pytest.raises(ValidationError, match="frozen"):
        settings.tune = settings.tune


def test_storage_is_below_the_project_unless_it_is_absolute(tmp_path: Path) -> None:
    assert load_settings(overrides=["storage.root=here"]).storage.path == PROJECT / "here"
    assert load_settings(overrides=[f"storage.root={tmp_path}"]).storage.path == tmp_path


@pytest.mark.parametrize("profile", [path.stem for path in sorted((CONF / "profiles").glob("*.yaml"))])
def test_every_shipped_profile_fits_the_settings(profile: str) -> None:
    assert load_settings(profile=profile) != load_settings()
