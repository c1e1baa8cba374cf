"""Boosting rounds: a resumed run comes to the same bytes, early stopping cuts to the best, parameters are checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.core.errors import SettingsError
from tasks.domain.targets import TARGETS
from tasks.engines import boosting, rounds
from tasks.engines.boosting_params import check_params
from tasks.engines.checkpoints import Checkpoint, Curves
from tasks.engines.linear_start import Start
from tasks.engines.quantile_matrices import plain_matrix, quantile_matrix
from tasks.engines.rounds import Rounds

FEATURES = ["a", "b", "c", "d"]
SAMPLING = {"subsample": 0.7, "colsample_bytree": 0.6, "colsample_bynode": 0.7}


def matrices(target: str, seed: int = 0) -> tuple[Any, Any]:
    """Make new matrices, as in a new process: XGBoost caches predictions for matrices that it knows."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(900, 4)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    y = np.nan_to_num(2 * x[:, 0] + x[:, 1]) + rng.normal(size=900)
    y = {"positive": y > 0, "stars": np.clip(np.round(y + 2), 0, 4)}.get(target, y).astype(np.float32)
    dtrain = quantile_matrix([(x[:300], y[:300]), (x[300:700], y[300:700])], FEATURES)
    return dtrain, plain_matrix([(x[700:], y[700:])], FEATURES)


def plan(target: str, **given: Any) -> Rounds:
    params = {**TARGETS[target].params, "nthread": 1, "seed": 7, "eta": 0.5, "max_depth": 4, **given.pop("params", {})}
    return Rounds(params, TARGETS[target], **{"rounds": 20, **given})


def boosted(job: Rounds, start: Checkpoint | None = None) -> tuple[tuple[bytes, Curves, int], list[Checkpoint]]:
    saved: list[Checkpoint] = []

    def save(found: Checkpoint) -> None:
        saved.append(Checkpoint(found.model, {name: list(losses) for name, losses in found.curves.items()}))

    target = next(n for n, t in TARGETS.items() if t.params.items() <= job.params.items())
    return rounds.boost(job, *matrices(target), start, save), saved


@pytest.mark.parametrize("target", ["rating", "positive", "stars"])
@pytest.mark.parametrize("sampling", [{}, SAMPLING], ids=["all-rows", "sampled"])
def test_every_checkpoint_leads_to_the_bytes_of_the_undisturbed_run(target: str, sampling: dict[str, float]) -> None:
    job = plan(target, params=sampling, checkpoint_every=6, patience=15)
    undisturbed, saved = boosted(job)
    assert [c.rounds for c in saved] == [6, 12, 18]
    for checkpoint in saved:
        assert boosted(job, checkpoint)[0] == undisturbed, checkpoint.rounds


@pytest.mark.parametrize("target", ["rating", "positive"])
@pytest.mark.parametrize("sampling", [{}, SAMPLING], ids=["all-rows", "sampled"])
def test_a_run_that_begins_from_the_linear_baseline_resumes_to_the_same_bytes(
    target: str, sampling: dict[str, float]
) -> None:
    start = Start(np.linspace(0.1, 0.9, 700, dtype=np.float32), 2)
    job = plan(target, params=sampling, checkpoint_every=6, begin=start)
    undisturbed, saved = boosted(job)
    assert [boosted(job, checkpoint)[0] for checkpoint in saved] == [undisturbed] * 3
    assert boosted(plan(target, params=sampling))[0][0] != undisturbed[0]


def test_stopping_early_keeps_the_best_round_and_shows_all_that_ran() -> None:
    (model, curves, kept), _ = boosted(plan("positive", rounds=100, patience=4, params={"eta": 1.0}))
    assert kept == int(np.argmin(curves["valid"])) + 1
    assert len(curves["train"]) == len(curves["valid"]) == kept + 4
    booster = boosting.load_model(model)
    assert booster.num_boosted_rounds() == kept
    (whole, _, _), _ = boosted(plan("positive", rounds=kept, params={"eta": 1.0}))
    assert booster.get_dump() == boosting.load_model(whole).get_dump()


def test_without_patience_all_rounds_stay_and_no_validation_slice_is_needed() -> None:
    dtrain, _ = matrices("rating")
    model, curves, kept = rounds.boost(plan("rating", rounds=7), dtrain, None, None, lambda _: None)
    assert (boosting.load_model(model).num_boosted_rounds(), kept, len(curves["train"])) == (7, 7, 7)
    assert list(curves) == ["train"]


def test_the_curve_is_the_loss_of_the_model() -> None:
    import xgboost as xgb

    dtrain, dvalid = matrices("stars")
    told: dict[str, Any] = {}
    xgb.train(
        {**plan("stars").params, "tree_method": "hist"},
        dtrain,
        5,
        [(dvalid, "valid")],
        evals_result=told,
        verbose_eval=0,
    )
    (_, curves, _), _ = boosted(plan("stars", rounds=5))
    assert curves["valid"] == pytest.approx(told["valid"]["mlogloss"])


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"max_dept": 3}, "max_dept"),
        ({"scale_pos_weigh": 2}, "scale_pos_weigh"),
        ({"max_depth": -1}, "max_depth"),
        ({"eta": "fast"}, "fast"),
        ({"max_bin": 1}, "max_bin"),
        ({"objective": "reg:gamma"}, "objective"),
        ({"device": "cuda"}, "device"),
        ({"learning_rate": 0.1}, "call it eta"),
    ],
)
def test_a_parameter_that_xgboost_cannot_use_is_named(params: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        check_params(params, TARGETS["rating"], "train.params")


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_parameters_that_xgboost_knows_pass(target: str) -> None:
    check_params({"max_depth": 3, "eta": 0.1, "lambda": 1.0, "max_bin": 64, **SAMPLING}, TARGETS[target], "")
