"""Neither a model nor its loss depends on the number of threads: nodes of a cluster may have any number of cores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xgboost as xgb

from tasks.domain.losses import losses, overall
from tasks.domain.targets import TARGETS
from tasks.engines import boosting, rounds
from tasks.engines.quantile_matrices import plain_matrix, quantile_matrix

THREADS = (1, 2, 3)
FEATURES = ("a", "b", "c", "d")


def slices(target: str, rows: int) -> list[tuple[Any, Any]]:
    """Rows with missing values, and labels of the target that follow a noisy sum of each row."""
    random = np.random.default_rng(7)
    x = random.normal(size=(rows, len(FEATURES))).astype(np.float32)
    signal = x @ np.array([1.0, -2.0, 0.5, 3.0]) + random.normal(size=rows)
    ranks = signal.argsort().argsort() / rows
    labels = {
        "rating": 1 + np.floor(5 * ranks),
        "positive": ranks > 0.3,
        "stars": np.floor(5 * ranks),
        "helpful": ranks,
    }
    x[random.random(x.shape) < 0.1] = np.nan
    return [(x, labels[target].astype(np.float32))]


@pytest.mark.slow
@pytest.mark.parametrize("target", sorted(TARGETS))
def test_the_same_bytes_and_losses_with_any_number_of_threads(target: str) -> None:
    train, valid = slices(target, 10_000), slices(target, 2_500)
    params = {**TARGETS[target].params, "max_depth": 6, "subsample": 0.8, "colsample_bytree": 0.7, "seed": 7}

    def boosted(threads: int) -> tuple[tuple[bytes, rounds.Curves, int], float]:
        boosting.use_threads(threads)
        dtrain = quantile_matrix(train, FEATURES)
        dvalid = plain_matrix(valid, FEATURES, threads)
        plan = rounds.Rounds({**params, "nthread": threads}, TARGETS[target], 8, 8)
        found = rounds.boost(plan, dtrain, dvalid, None, lambda _: None)
        booster = boosting.load_model(found[0])
        booster.set_param({"nthread": threads, **TARGETS[target].params})
        return found, boosting.loss(booster, dtrain, dtrain.get_label(), TARGETS[target])

    made = [boosted(threads) for threads in THREADS]
    assert len(made[0][0][1]["train"]) == 8
    assert [one == made[0] for one in made] == [True] * len(THREADS)


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_the_loss_is_that_of_the_predictions(target: str) -> None:
    data = quantile_matrix(slices(target, 2_000), FEATURES)
    booster = xgb.train({**TARGETS[target].params, "base_score": 0.4}, data, num_boost_round=3)
    lost = losses(TARGETS[target], data.get_label(), booster.predict(data))
    expected = overall(TARGETS[target].metric, lost.sum() / len(lost))
    assert boosting.loss(booster, data, data.get_label(), TARGETS[target]) == expected


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_a_plain_matrix_gives_the_predictions_of_a_quantile_matrix(target: str) -> None:
    train, valid = slices(target, 2_000), slices(target, 500)
    np.clip(valid[0][0], np.nanmin(train[0][0], axis=0), None, out=valid[0][0])
    dtrain = quantile_matrix(train, FEATURES, max_bin=16)
    booster = xgb.train({**TARGETS[target].params, "max_bin": 16}, dtrain, num_boost_round=4)
    plain, quantile = plain_matrix(valid, FEATURES), quantile_matrix(valid, FEATURES, dtrain, 16)
    assert booster.predict(plain).tolist() == booster.predict(quantile).tolist()
    assert plain.get_label().tolist() == quantile.get_label().tolist()


def test_a_plain_matrix_gives_the_predictions_of_the_model_for_values_below_all_that_was_learned_from() -> None:
    train, valid = slices("positive", 2_000), slices("positive", 500)
    valid[0][0][::7] *= 10
    booster = xgb.train({**TARGETS["positive"].params, "max_bin": 16}, quantile_matrix(train, FEATURES, max_bin=16), 4)
    expected = boosting.predict(booster, valid[0][0], FEATURES)
    assert booster.predict(plain_matrix(valid, FEATURES)).tolist() == expected.tolist()


def test_a_rank_without_validation_rows_has_a_plain_matrix_all_the_same() -> None:
    empty = plain_matrix([], FEATURES)
    assert (empty.num_row(), empty.num_col(), empty.feature_names) == (0, len(FEATURES), list(FEATURES))
