"""The space of a search, and the study: what it suggests, and what of it outlives its process."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tasks.core.errors import RunError, SettingsError, TransientError
from tasks.domain.search_space import Axis
from tasks.domain.targets import TARGETS
from tasks.settings import load_settings
from tasks.stages.tune import stage as tune_stage
from tasks.stages.tune.settings import TuneConfig
from tasks.stages.tune.study import Study
from tasks.stages.tune.study_storage import with_driver


def config(*overrides: str) -> TuneConfig:
    return load_settings(overrides=[f"tune.{o}" for o in overrides]).tune


def loss_of(params: dict[str, Any]) -> float:
    return float((params["eta"] - 0.1) ** 2 + 0.01 * params["max_depth"])


def run(study: Study, trials: int) -> None:
    """Trials whose every third is stopped by comparison with others."""
    for number in range(trials):
        loss = loss_of(study.ask("trial"))
        study.report("trial", loss, 20)
        study.tell("trial", [loss + 1, loss], whole=number % 3 > 0)


def tried(study: Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.ended()]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("space.eta=[0.3, 0.1]", "eta: low must be below high, got [0.3, 0.1]"),
        ("space.eta=[0.1, 0.1]", "eta: low must be below high"),
        ("space.max_dept=[3, 8]", "max_dept: XGBoost has no such parameter that can be searched; did you mean max_d"),
        ("space.zzz=[3, 8]", "known: alpha, begin, colsample_bylevel"),
        ("space.max_depth=[3.0, 8.0]", "max_depth: expected whole numbers, got 3.0"),
        ("space.max_depth={choice: [3, deep]}", "max_depth: expected whole numbers, got 'deep'"),
        ("space.subsample=[0.5, 1.5]", "subsample: 1.5 is outside of what XGBoost takes, ]0, 1]"),
        ("space.lambda=[0, 1, log]", "lambda: low must be above 0 on a log scale"),
        (
            "space.lambda=[0, 1, lag]",
            "expected [low, high], [low, high, log] or {choice: [a, b, ...]}, got [0, 1, 'lag']",
        ),
        ("space.lambda=5", "expected [low, high], [low, high, log] or {choice: [a, b, ...]}, got 5"),
        ("space.lambda={choise: [1]}", "expected [low, high]"),
        ("space.lambda={choice: []}", "expected {choice: [a, b, ...]}, got []"),
        ("space.lambda={choice: [1, 1]}", "a choice is given twice"),
        ("space.grow_policy={choice: [deepwise]}", "grow_policy: expected {choice: [depthwise, lossguide]}"),
        ("space.learning_rate=[0.1, 0.3]", "learning_rate: call it eta"),
        ("space.objective={choice: [reg:squarederror]}", "objective: cannot be searched, features.target decides it"),
        (
            "space={max_depth: null, eta: null, min_child_weight: null, subsample: null, colsample_bytree: null, "
            "lambda: null, begin: null}",
            "no parameter to search",
        ),
        ("first.learning_rate=0.1", "learning_rate: call it eta"),
        ("first.max_dept=3", "max_dept: XGBoost has no such parameter that can be searched; did you mean max_d"),
        ("algorithm=tpa", "'gp', 'tpe', 'random' or 'grid'"),
        ("stopping=halving", "'forecast', 'asha' or 'patience'"),
        ("patience=0", "greater than or equal to 1"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_with_the_reason(override: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        config(override)
    assert says in str(caught.value)
    assert "tune." in str(caught.value)


def test_a_space_takes_ranges_scales_and_choices_and_null_takes_one_out() -> None:
    space = config(
        "space.eta={choice: [0.1, 0.3]}", "space.lambda=null", "space.grow_policy={choice: [lossguide]}"
    ).space
    assert "lambda" not in space
    assert space["eta"] == Axis.model_validate({"choice": [0.1, 0.3]})
    assert (space["max_depth"].whole, space["min_child_weight"].log, space["subsample"].log) == (True, True, False)
    assert TuneConfig.model_validate(config().model_dump(mode="json")) == config()


def test_trials_have_the_parameters_that_are_fixed_for_training() -> None:
    given = ["train.params.gamma=5", "train.params.max_bin=99", "train.params.eta=0.2", "tune.space.lambda=null"]
    settings = load_settings(overrides=given)
    assert settings.tune.fixed == {"gamma": 5, "lambda": 1.0}
    assert settings.tune.max_bin == 99
    assert load_settings(overrides=["tune.max_bin=32"]).tune.max_bin == 32
    settings = load_settings(overrides=given[:3])
    again = load_settings(**settings.model_dump(mode="json", by_alias=True))
    assert again.tune == settings.tune
    assert load_settings(overrides=["train.params.eta=0.2"]).tune == load_settings().tune  # searched: the key stays


def test_a_fixed_parameter_that_xgboost_refuses_is_named_before_any_trial() -> None:
    class Splits:
        facts: ClassVar = {"features": ["a", "b"]}

        def rows(self, name: str) -> int:
            return 1

    def check(override: str) -> None:
        tune_stage.check_before(Splits(), load_settings(overrides=[override]).tune, TARGETS["rating"])  # type: ignore[arg-type]

    check("train.params.monotone_constraints={b: 1}")
    with pytest.raises(SettingsError, match="gama"):
        check("train.params.gama=5")
    with pytest.raises(SettingsError, match="no feature 'c'"):
        check("train.params.monotone_constraints={c: 1}")


@pytest.mark.parametrize("algorithm", ["gp", "tpe", "random"])
def test_a_search_begins_with_the_parameters_of_the_untuned_model(tmp_path: Path, algorithm: str) -> None:
    params = dict(load_settings().train.params)
    assert params.pop("max_bin") == load_settings().tune.max_bin  # of the matrix that trials share
    study = Study(config("trials=3", f"algorithm={algorithm}"), "study", tmp_path / "study.db")
    run(study, 3)
    first, *others = tried(study)
    assert first == {"colsample_bytree": 1.0, "begin": "mean", **params}
    assert all(other["eta"] != first["eta"] for other in others)


def test_the_first_trial_is_not_lost_with_a_process_whose_second_trial_ended(tmp_path: Path) -> None:
    given = config("trials=3")
    study = Study(given, "study", tmp_path / "study.db")
    study.ask("killed with the process")
    study.tell("second", [loss_of(study.ask("second"))], whole=True)
    study.storage.engine.dispose()
    again = Study(given, "study", tmp_path / "study.db")
    run(again, 2)
    assert given.first.items() <= tried(again)[1].items()


def test_what_the_space_does_not_hold_of_the_first_trial_is_drawn(tmp_path: Path) -> None:
    narrow = config(
        "trials=1", "space.eta=[0.01, 0.05]", "space.max_depth={choice: [4, 6]}", "space.lambda=null", "first.gamma=1",
        "space.min_child_weight=[1, 20]",
    )  # fmt: skip
    study = Study(narrow, "study", tmp_path / "study.db")
    run(study, 1)
    (params,) = tried(study)
    assert 0.01 <= params["eta"] <= 0.05
    assert (params["max_depth"], params["subsample"], params["min_child_weight"]) == (6, 1.0, 1)
    assert params.keys() == narrow.space.keys()


@pytest.mark.parametrize(("value", "held"), [(3, True), (8.0, True), (3.5, False), (9, False), ("3", False)])
def test_a_whole_axis_holds_whole_numbers_within_it(value: Any, held: bool) -> None:
    assert Axis.model_validate([3, 8]).holds(value) is held
    assert not Axis.model_validate([3, 8]).holds(float("inf"))


def test_points_of_a_grid_lie_evenly_on_the_scale_with_both_ends() -> None:
    def points(given: Any, count: int = 3) -> list[Any]:
        return Axis.model_validate(given).points(count)

    assert points([0.1, 10.0, "log"]) == pytest.approx([0.1, 1.0, 10.0])
    assert points([0.5, 1.0]) == [0.5, 0.75, 1.0]
    assert points([3, 5]) == [3, 4, 5]
    assert points([1, 100]) == [1, 50, 100]
    assert points([1, 2], 5) == [1, 2]
    assert points({"choice": ["a", "b", "c", "d"]}) == ["a", "b", "c", "d"]
    assert points([2.0, 4.0], 1) == [3.0]


def test_the_password_of_the_storage_is_nowhere_where_settings_are_written_down() -> None:
    given = config("storage=postgresql://me:topsecret@nowhere/db")
    for written in (given, repr(given), given.model_dump_json(), json.dumps(given.model_dump(mode="json"))):
        assert "topsecret" not in str(written)
    assert given.model_dump() == config().model_dump()  # so the key of the snapshot does not depend on it, either
    with pytest.raises(SettingsError) as caught:
        Study(config("storage=mysql+nodriver://me:topsecret@nowhere/db"), "study", Path("unused"))
    assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "opened"),
    [
        ("postgresql://me:pw@h/db", "postgresql+psycopg://me:pw@h/db"),
        ("postgres://me:pw@h/db", "postgresql+psycopg://me:pw@h/db"),
        ("postgresql+psycopg2://me:pw@h/db", "postgresql+psycopg2://me:pw@h/db"),
        ("sqlite:///study.db", "sqlite:///study.db"),
    ],
)
def test_a_postgresql_address_without_a_driver_gets_the_one_we_install(url: str, opened: str) -> None:
    assert with_driver(url) == opened


def test_a_missing_driver_is_named_with_the_extra_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SettingsError, match="no driver for this database") as caught:
        Study(config("storage=postgresql://me:topsecret@nowhere/db"), "study", Path("unused"))
    assert ".[postgres]" in caught.value.fix
    assert "topsecret" not in str(caught.value)


def test_a_database_that_cannot_be_opened_is_named_with_what_to_check(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the study cannot be opened") as caught:
        Study(config(f"storage=sqlite:///{tmp_path}/missing/study.db"), "study", Path("unused"))
    assert "check tune.storage" in caught.value.fix


@pytest.mark.parametrize("algorithm", ["gp", "tpe", "random", "grid"])
def test_a_search_taken_up_again_and_again_makes_the_trials_of_one_that_was_not(tmp_path: Path, algorithm: str) -> None:
    given = config("trials=8", f"algorithm={algorithm}")
    calm = Study(given, "study", tmp_path / "calm.db")
    run(calm, 8)
    for begin, end in ((0, 3), (3, 8)):
        study = Study(given, "study", tmp_path / "stormy.db")
        assert len(study.ended()) == begin
        for number in range(begin, end):
            loss = loss_of(study.ask("trial"))
            study.report("trial", loss, 20)
            study.tell("trial", [loss + 1, loss], whole=number % 3 > 0)
        study.ask("killed")
        study.storage.engine.dispose()
    again = Study(given, "study", tmp_path / "stormy.db")
    assert tried(again) == tried(calm)
    assert [t.status for t in again.ended()] == [t.status for t in calm.ended()]
    assert len({json.dumps(p) for p in tried(calm)}) == 8
    assert again.missing() == 0


def test_the_forecast_suggests_better_ones_than_chance_once_there_are_trials_to_learn_from(tmp_path: Path) -> None:
    losses = {}
    for algorithm in ("gp", "random"):
        study = Study(config("trials=12", f"algorithm={algorithm}", "first.eta=0.3"), algorithm, tmp_path / "study.db")
        run(study, 12)
        losses[algorithm] = [loss_of(params) for params in tried(study)]
    assert losses["gp"][:4] == losses["random"][:4]
    assert np.mean(losses["gp"][4:]) < min(np.mean(losses["random"][4:]), 0.05)


def test_a_trial_is_given_up_when_it_will_hardly_be_the_best_and_not_before_one_has_ended(tmp_path: Path) -> None:
    study = Study(config("algorithm=random", "trials=20"), "study", tmp_path / "study.db")
    study.ask("far behind")
    study.report("far behind", 1.9, 20)
    assert study.promising("far behind")
    for _ in range(8):
        study.ask("ended")
        study.tell("ended", [1.0 + 0.5 / r for r in range(1, 201)], whole=True)
    study.ask("ahead")
    study.report("ahead", 1.02, 20)
    assert study.promising("ahead")
    assert not study.promising("far behind")


def test_what_another_machine_is_about_to_try_does_not_disturb(tmp_path: Path) -> None:
    """A trial is in the database before its parameters are."""
    given = config("trials=8", f"storage=sqlite:///{tmp_path}/shared.db")
    study = Study(given, "study", tmp_path / "unused")
    run(study, 5)
    study.storage.create_new_trial(study.study._study_id)
    assert study.ask("sixth").keys() == given.space.keys()


def test_a_grid_is_searched_once_and_whole(tmp_path: Path) -> None:
    unsearched = [f"space.{name}=null" for name in ("subsample", "lambda", "min_child_weight", "begin")]
    given = config("algorithm=grid", "trials=100", "grid_points=2", *unsearched, "space.max_depth={choice: [3, 5, 8]}")
    study = Study(given, "study", tmp_path / "study.db")
    assert study.wanted == 3 * 2 * 2
    run(study, study.wanted)
    points = {(p["max_depth"], p["eta"], p["colsample_bytree"]) for p in tried(study)}
    assert points == {(d, e, c) for d in (3, 5, 8) for e in (0.03, 0.3) for c in (0.5, 1.0)}
    assert study.missing() == 0


def test_a_trial_without_a_loss_is_left_out_and_another_takes_its_place(tmp_path: Path) -> None:
    study = Study(config("trials=2"), "study", tmp_path / "study.db")
    study.ask("spoilt")
    study.fail("spoilt")
    assert (study.missing(), study.failed()) == (2, 1)
    run(study, 2)
    assert (study.missing(), len(study.ended())) == (0, 2)
    assert Study(study.config, "study", tmp_path / "study.db").ended() == study.ended()


def test_two_machines_share_one_study_and_a_study_of_another_name_is_none_of_theirs(tmp_path: Path) -> None:
    given = config("trials=4", f"storage=sqlite:///{tmp_path}/shared.db")
    here, there = (Study(given, "study", tmp_path / "unused") for _ in range(2))
    here.ask("mine")
    there.ask("theirs")
    assert (here.missing(), there.missing()) == (2, 2)
    here.tell("mine", [0.5], whole=True)
    there.tell("theirs", [0.4], whole=True)
    run(here, 2)
    assert there.missing() == 0
    assert there.ended() == here.ended()
    assert len(there.ended()) == 4
    assert Study(given, "another", tmp_path / "unused").missing() == 4


def test_trials_of_a_machine_that_is_gone_are_given_up(tmp_path: Path) -> None:
    given = config("trials=1", f"storage=sqlite:///{tmp_path}/shared.db")
    gone = Study(given, "study", tmp_path / "unused")
    gone.ask("never told")
    gone.storage.engine.dispose()
    here = Study(given, "study", tmp_path / "unused")
    assert here.missing() == 0
    with sqlite3.connect(tmp_path / "shared.db") as database:
        database.execute("UPDATE trial_heartbeats SET heartbeat = '2000-01-01 00:00:00.000000'")
    here.fail_lost()
    assert here.missing() == 1
    run(here, 1)
    assert len(here.ended()) == 1


def test_a_database_that_fails_in_the_middle_is_a_fault_worth_a_retry_that_keeps_what_ended(tmp_path: Path) -> None:
    study = Study(config("trials=3", f"storage=sqlite:///{tmp_path}/shared.db"), "study", tmp_path / "unused")
    run(study, 1)
    for file in tmp_path.glob("shared.db*"):
        file.rename(file.with_name(f"away-{file.name}"))
    study.storage.engine.dispose()
    with pytest.raises(TransientError, match=r"the database of the study failed: .*no such table"), study.answering():
        study.ask("trial")
    study.close()
    for file in tmp_path.glob("*shared.db*"):
        file.rename(file.with_name(file.name.removeprefix("away-")))
    assert len(Study(study.config, "study", tmp_path / "unused").ended()) == 1
