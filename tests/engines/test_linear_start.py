"""The tree that repeats the linear baseline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xgboost as xgb

from tasks.domain.targets import TARGETS
from tasks.engines import boosting
from tasks.engines.linear_start import Start, linear_tree
from tasks.engines.quantile_matrices import quantile_matrix

FEATURES = ["a", "b", "score"]
ROWS = 2_000


def rows(low: float, high: float) -> Any:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(ROWS, 3)).astype(np.float32)
    x[:, 2] = rng.uniform(low, high, ROWS)
    x[::50, 2] = np.nan
    return x


def label_of(x: Any, target: str) -> Any:
    noisy = np.nan_to_num(x[:, 2], nan=0.7) + x[:, 0]
    return (noisy > 0.5 if target == "positive" else noisy).astype(np.float32)


@pytest.mark.parametrize(("target", "low", "high"), [("rating", 1, 5), ("positive", 0.02, 0.98), ("helpful", 0, 1)])
def test_it_repeats_the_baseline_and_predicts_the_mean_label_where_there_is_none(
    target: str, low: float, high: float
) -> None:
    x = rows(low, high)
    y = label_of(x, target)
    matrix = quantile_matrix([(x, y)], FEATURES, max_bin=64)
    model = boosting.load_model(linear_tree(matrix, Start(x[:, 2], 2), TARGETS[target], {"max_bin": 64, "nthread": 1}))
    predicted = boosting.predict(model, x, FEATURES)
    assert model.num_boosted_rounds() == 1
    assert list(model.get_score()) == ["score"]
    unknown = np.isnan(x[:, 2])
    assert np.abs(predicted - x[:, 2])[~unknown].max() < 1.5 * (high - low) / 64
    assert predicted[unknown] == pytest.approx(y.mean(), abs=(high - low) / 64)


def test_later_rounds_draw_their_features_as_without_it() -> None:
    x = rows(1, 5)
    sampled = {"colsample_bytree": 0.4, "seed": 1, "nthread": 1}
    used, fresh = (quantile_matrix([(x, label_of(x, "rating"))], FEATURES) for _ in range(2))
    linear_tree(used, Start(x[:, 2], 2), TARGETS["rating"], {"nthread": 1})
    dumps = [xgb.train(sampled, matrix, 6).get_dump() for matrix in (used, fresh)]
    assert dumps[0] == dumps[1]


def test_labels_of_one_class_leave_the_baseline_as_it_is() -> None:
    x = rows(0.02, 0.98)
    matrix = quantile_matrix([(x, np.ones(ROWS, np.float32))], FEATURES, max_bin=64)
    model = boosting.load_model(linear_tree(matrix, Start(x[:, 2], 2), TARGETS["positive"], {"max_bin": 64}))
    known = ~np.isnan(x[:, 2])
    assert np.abs(boosting.predict(model, x, FEATURES) - x[:, 2])[known].max() < 0.03
