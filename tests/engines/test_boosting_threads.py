"""Neither a model nor its loss depends on the number of threads: nodes of a cluster may have any number of cores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xgboost as xgb

from tasks.domain.losses import losses, overall
from tasks.domain.targets import TARGETS
from tasks.engines import boosting, rounds
from tasks.engines.quantile_matrices import quantile_matrix

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
        dvalid = quantile_matrix(valid, FEATURES, dtrain)
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
