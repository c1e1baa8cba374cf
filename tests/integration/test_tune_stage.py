"""The search on a real Ray session: killed, shared by two machines, of wrong data, and with what it finds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.core.errors import InputError, RunError
from tasks.core.snapshots import Snapshot
from tasks.core.stage import stage_key
from tasks.core.storage.store import SnapshotStore
from tasks.domain.targets import TARGETS
from tasks.engines import boosting
from tasks.stages.train.stage import refit
from tasks.stages.tune.plots import search_plots
from tasks.stages.tune.stage import finals, fitted, tune
from tasks.stages.tune.study import Study
from tests.support.stage_runs import made, put, settings

pytestmark = pytest.mark.usefixtures("ray_session")
FEATURES = ["slope", "noise"]
SMALL = ("tune.trials=3", "tune.concurrent=1", "tune.max_rounds=20", "tune.min_rounds=5", "tune.patience=4")
POINT = {"max_depth": 3, "min_child_weight": 2.0, "subsample": 0.8, "colsample_bytree": 0.7, "lambda": 1.0}


def put_splits(store: SnapshotStore, target: str = "rating", *, rows: int = 400) -> Snapshot:
    """Three slices whose label one of two features tells."""
    tables = {}
    for seed, name in enumerate(("train", "valid", "test")):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(rows, 2)).astype(np.float32)
        y = np.clip(np.round(3 + x[:, 0]), 1, 5)
        labels = {"rating": y, "positive": y >= 4, "stars": y - 1}
        columns = {"slope": x[:, 0], "noise": x[:, 1], "label": labels[target].astype(np.float32)}
        tables[name] = [pa.table(columns).slice(0, 150), pa.table(columns).slice(150)]
    return put(store, "split", tables, facts={"features": FEATURES, "target": target})


def test_few_rows_do_not_unlearn_a_linear_baseline_that_is_right(tmp_path: Path) -> None:
    """Trees that begin from the mean need more rows than these to follow it."""
    tables = {}
    for seed, (name, rows) in enumerate((("train", 240), ("valid", 30))):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(rows, 8)).astype(np.float32)
        base = (3 + x[:, 0]).astype(np.float32)
        label = base + rng.normal(0, 0.5, rows).astype(np.float32)
        days = pa.array(np.arange(rows) + 1000 * seed, pa.timestamp("ms"))
        tables[name] = [
            pa.table({**{f"x{i}": x[:, i] for i in range(1, 8)}, "base": base, "label": label, "timestamp": days})
        ]
    names = [*(f"x{i}" for i in range(1, 8)), "base"]
    facts = {"features": names, "target": "rating", "linear": "base", "borders": {"valid_until": "1970-01-01"}}
    store = SnapshotStore(tmp_path)
    splits = put(store, "split", tables, facts=facts)
    config = settings("tune.trials=4", "tune.algorithm=random", "train.workers=1")
    search = made(store, tune, [splits], config.tune).snapshot
    assert search.facts["best_params"]["begin"] == "linear"
    model = made(store, refit, [splits, search], config.train).snapshot
    assert model.facts["params"]["begin"] == "linear"
    booster = boosting.load_model(model.path("model.ubj").read_bytes())
    x = np.full((3, 8), np.nan, np.float32)
    x[:, 7] = [2.0, 3.0, 4.0]
    assert np.abs(boosting.predict(booster, x, names) - x[:, 7]).max() < 0.4


@dataclass(frozen=True)
class Calm:
    """A finished search, and the setting of the database that it is in."""

    search: Snapshot
    storage: str

    @property
    def splits(self) -> Snapshot:
        return put_splits(SnapshotStore(Path(self.search.folder).parents[1]), "stars")


@pytest.fixture
def no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that runs is a failure."""
    from tasks.stages.tune import search

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the search ran")

    monkeypatch.setattr(search, "run", never)


def studied(
    store: SnapshotStore, splits: Snapshot, overrides: tuple[str, ...], given: list[dict[str, Any]] | None = None
) -> Study:
    """The study that a killed search with this configuration has left behind; given: that of its finals."""
    config = settings(*overrides).tune
    key = stage_key(tune, [splits], config)
    scratch = store.root / "tune" / key / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    own = fitted(config, splits, TARGETS[splits.facts["target"]])
    if given and (last := finals(own, splits)):
        return Study(last, f"raymill-{key}-finals", scratch / "study.db", given)
    return Study(own, f"raymill-{key}", scratch / "study.db")


def add(study: Study, params: dict[str, Any], curve: list[float]) -> None:
    """An ended trial with these parameters."""
    study.study.enqueue_trial(params)
    assert study.ask("earlier") == params
    study.tell("earlier", curve, whole=True)


@pytest.fixture(scope="module")
def calm(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """A search of five classes, one trial at a time, in a database that others may share; nothing disturbs it."""
    root = tmp_path_factory.mktemp("calm")
    storage = f"tune.storage=sqlite:///{root}/shared.db"
    store = SnapshotStore(root / "snapshots")
    done = made(store, tune, [put_splits(store, "stars")], settings(*SMALL, storage).tune)
    assert done.notes["resumed_trials"] == 0
    return Calm(done.snapshot, storage)


def test_a_search_without_a_baseline_to_begin_from_has_its_pictures(calm: Calm) -> None:
    assert "begin" in calm.search.manifest.config["space"]
    assert "parallel_coordinates.png" in search_plots(calm.search)


def test_a_killed_search_takes_its_ended_trials_up_and_makes_those_of_one_that_was_not_killed(
    calm: Calm, store: SnapshotStore
) -> None:
    splits = put_splits(store, "stars")
    left = studied(store, splits, SMALL)
    curves: dict[int, list[float]] = {}
    for point in calm.search.read("curves").to_pylist():
        curves.setdefault(point["trial"], []).append(point["loss"])
    for number, trial in enumerate(calm.search.read().to_pylist()[:2]):
        assert left.ask("ended") == json.loads(trial["params"])
        left.tell("ended", curves[number], whole=trial["status"] == "complete")
    left.ask("killed with the process")
    left.storage.engine.dispose()

    done = made(store, tune, [splits], settings(*SMALL).tune)
    assert done.notes["resumed_trials"] == 2
    assert done.snapshot.digest == calm.search.digest
    assert done.snapshot.manifest.deterministic is False
    assert not (Path(done.snapshot.folder) / "scratch").exists()


def test_a_second_machine_on_the_same_study_comes_to_the_same_output_without_a_trial_of_its_own(
    calm: Calm, store: SnapshotStore, no_trial: None
) -> None:
    done = made(store, tune, [put_splits(store, "stars")], settings(*SMALL, calm.storage).tune)
    assert done.notes["resumed_trials"] == 3
    assert done.snapshot.digest == calm.search.digest


def test_the_curve_of_a_trial_is_that_of_xgboost_alone_in_the_loss_of_the_target(calm: Calm) -> None:
    import xgboost as xgb

    from tasks.domain.targets import TARGETS
    from tasks.engines.feature_files import arrays

    splits, facts = calm.splits, calm.search.facts
    train, valid = (arrays(splits.read(name), FEATURES) for name in ("train", "valid"))
    config = settings().tune
    dtrain = xgb.QuantileDMatrix(*train, max_bin=config.max_bin)
    alone: dict[str, Any] = {}
    fixed = {"tree_method": "hist", "max_bin": config.max_bin, "seed": config.seed, "seed_per_iteration": True}
    xgb.train(
        {**TARGETS["stars"].params, **fixed, **facts["best_params"]},
        dtrain,
        20,
        evals=[(xgb.QuantileDMatrix(*valid, ref=dtrain, max_bin=config.max_bin), "valid")],
        evals_result=alone,
        early_stopping_rounds=4,
        verbose_eval=False,
    )
    points = calm.search.read("curves").to_pylist()
    ours = [point["loss"] for point in points if point["trial"] == facts["best_trial"]]
    losses = alone["valid"]["mlogloss"]
    assert (facts["target"], facts["metric"]) == ("stars", "mlogloss")
    assert ours == pytest.approx(losses[: len(ours)], abs=1e-5)
    assert facts["best_loss"] == pytest.approx(min(losses), abs=1e-5)
    assert facts["best_rounds"] == int(np.argmin(losses)) + 1


@pytest.mark.parametrize("fixed", ["gamma=1000000000", "monotone_constraints={slope: -1}"])
def test_trials_obey_what_is_fixed_for_training(store: SnapshotStore, fixed: str) -> None:
    config = settings(*SMALL, "tune.trials=1", f"train.params.{fixed}").tune
    facts = made(store, tune, [put_splits(store)], config).snapshot.facts
    assert facts["best_loss"] > 0.8  # no better than the mean: the only feature that tells cannot be used


def test_the_best_of_trials_that_all_ended_is_the_one_of_least_loss(store: SnapshotStore, no_trial: None) -> None:
    splits = put_splits(store)
    left = studied(store, splits, SMALL)
    for loss in (0.9, 0.7, 0.8):
        add(left, {**POINT, "eta": loss / 3}, [loss + 0.1, loss, loss])
    left.close()
    done = made(store, tune, [splits], settings(*SMALL).tune)
    facts = done.snapshot.facts
    assert (facts["best_trial"], facts["best_loss"], facts["best_rounds"]) == (1, 0.7, 2)
    assert facts["best_params"] == {**POINT, "eta": 0.7 / 3}


SAMPLED = (*SMALL, "tune.max_rows=100")  # one in four


def test_where_trials_read_samples_the_best_of_them_learn_from_all_rows_and_one_of_these_is_taken(
    store: SnapshotStore,
) -> None:
    search = made(store, tune, [put_splits(store)], settings(*SAMPLED).tune).snapshot
    rows = search.read().to_pylist()
    trials, finals = rows[:3], rows[3:]
    assert {(t["status"] == "final", t["train_rows"]) for t in trials} == {(False, 100)}
    assert [(t["status"], t["train_rows"]) for t in finals] == [("final", 400)] * 2
    best = sorted(trials, key=lambda trial: trial["valid_loss"])[:2]
    assert [t["params"] for t in finals] == [t["params"] for t in best]
    taken = min(finals, key=lambda trial: trial["valid_loss"])
    facts = search.facts
    assert (facts["best_trial"], facts["best_loss"]) == (taken["trial"], taken["valid_loss"])
    assert facts["best_params"] == json.loads(taken["params"])
    assert "parallel_coordinates.png" in search_plots(search)


def test_finals_that_ended_before_a_kill_are_not_run_again(store: SnapshotStore, no_trial: None) -> None:
    splits = put_splits(store)
    left = studied(store, splits, SAMPLED)
    for loss in (0.9, 0.7, 0.8):
        add(left, {**POINT, "eta": loss / 3}, [loss + 0.1, loss])
    left.close()
    best = [{**POINT, "eta": loss / 3} for loss in (0.7, 0.8)]
    again = studied(store, splits, SAMPLED, given=best)
    for loss, params in zip((0.6, 0.5), best, strict=True):
        assert again.ask("final") == params
        again.tell("final", [1.0, loss], whole=True)
    again.close()
    facts = made(store, tune, [splits], settings(*SAMPLED).tune).snapshot.facts
    assert (facts["best_trial"], facts["best_loss"], facts["best_params"]) == (4, 0.5, best[1])


def test_a_slice_without_rows_or_with_an_infinite_feature_is_refused(store: SnapshotStore, tmp_path: Path) -> None:
    full = put_splits(store)
    facts = {"features": FEATURES, "target": "rating"}
    spoilt = pa.table({"slope": [1.0, np.inf], "noise": [0.0, 1.0], "label": [1.0, 5.0]})
    for number, (train, valid, error, says) in enumerate(
        [
            (full.read("train"), spoilt.slice(0, 0), InputError, "the valid slice is empty"),
            (spoilt, full.read("valid"), InputError, "'slope' holds an infinite value"),
        ]
    ):
        own = SnapshotStore(tmp_path / str(number))
        splits = put(own, "split", {"train": [train], "valid": [valid], "test": [valid]}, facts=facts)
        with pytest.raises(error, match=says):
            made(own, tune, [splits], settings(*SMALL).tune)


def test_a_search_that_halves_asks_the_trials_before_it_too(store: SnapshotStore) -> None:
    splits, asha = put_splits(store), (*SMALL, "tune.stopping=asha", "tune.algorithm=tpe")
    left = studied(store, splits, asha)
    for number in range(2):
        add(left, {**POINT, "eta": 0.1 + number / 10}, [1e-6] * 15)  # nothing comes near it
    left.close()
    trials = made(store, tune, [splits], settings(*asha).tune).snapshot.read().to_pylist()
    assert [trial["status"] for trial in trials] == ["complete", "complete", "pruned"]
    assert trials[2]["rounds"] == 5


def test_files_that_cannot_be_read_end_the_search_with_their_reason(store: SnapshotStore) -> None:
    splits = put_splits(store)
    for file in splits.files("train"):
        file.write_bytes(b"PAR1")
    with pytest.raises(Exception, match=r"(?i)parquet|footer|invalid") as caught:
        made(store, tune, [splits], settings(*SMALL).tune)
    assert "trials" not in str(caught.value)


def test_a_failure_of_xgboost_ends_the_search_with_its_reason(store: SnapshotStore) -> None:
    splits = put_splits(store, "stars")
    wrong = put(
        store,
        "split-wrong",
        {n: [splits.read(n)] for n in ("train", "valid")},
        facts={"features": FEATURES, "target": "positive"},
    )
    with pytest.raises(RunError, match=r"XGBoost failed: .* logistic loss"):
        made(store, tune, [wrong], settings(*SMALL, "tune.concurrent=2").tune)
