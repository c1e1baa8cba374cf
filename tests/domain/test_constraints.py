"""XGBoost's constraints by feature name or by position, for all features and for fewer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.core.errors import SettingsError
from tasks.domain import constraints
from tasks.domain.targets import TARGETS
from tasks.engines import boosting, quantile_matrices, rounds
from tasks.engines.boosting_params import check_params

FEATURES = ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"monotone_constraints": {"c": -1, "a": 1}}, "(1,0,-1,0)"),
        ({"monotone_constraints": "(1,0,0)"}, "(1,0,0,0)"),
        ({"monotone_constraints": "1, -1"}, "(1,-1,0,0)"),
        ({"monotone_constraints": [0, 1]}, "(0,1,0,0)"),
        ({"interaction_constraints": [["a", "c"], ["d"]]}, "[[0, 2], [3]]"),
        ({"interaction_constraints": "[[0,1],[2,3]]"}, "[[0, 1], [2, 3]]"),
        ({"interaction_constraints": '[["b", "d"]]'}, "[[1, 3]]"),
    ],
)
def test_names_and_positions_become_what_xgboost_takes(given: dict[str, Any], expected: str) -> None:
    params = constraints.positional({"eta": 0.1, **given}, FEATURES, "train.params")
    assert params == {"eta": 0.1, next(iter(given)): expected}
    check_params({"eta": 0.1, **given}, TARGETS["rating"], "train.params", FEATURES)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"monotone_constraints": {"e": 1}}, "no feature 'e'"),
        ({"monotone_constraints": {"a": 2}}, "expected {feature: 1 or -1}"),
        ({"monotone_constraints": "up"}, "expected {feature: 1 or -1}"),
        ({"monotone_constraints": "(1,1,1,1,1)"}, "5 constraints for 4 features"),
        ({"interaction_constraints": [["a", "x"]]}, "no feature 'x'"),
        ({"interaction_constraints": "[[0, 9]]"}, "no feature 9"),
        ({"interaction_constraints": "a,b"}, "expected lists of features"),
        ({"interaction_constraints": ["a"]}, "expected lists of features"),
    ],
)
def test_what_no_feature_can_obey_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        constraints.positional(given, FEATURES, "train.params")
    assert f"train.params.{next(iter(given))}" in str(caught.value)


def test_a_model_of_fewer_features_keeps_the_constraints_of_its_own() -> None:
    given = {"monotone_constraints": "(1,0,-1,1)", "interaction_constraints": [["a", "c"], ["b"], ["c", "d"]]}
    assert constraints.restricted(given, FEATURES, ["c", "d"], "train.params") == {
        "monotone_constraints": "(-1,1)",
        "interaction_constraints": "[[0], [0, 1]]",
    }


def test_a_constrained_model_never_falls_where_it_must_rise() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 4)).astype(np.float32)
    y = (np.sin(3 * x[:, 1]) + rng.normal(size=500) / 9).astype(np.float32)
    params = constraints.positional({"monotone_constraints": {"b": 1}}, FEATURES, "train.params")
    job = rounds.Rounds({**TARGETS["rating"].params, "nthread": 1, **params}, TARGETS["rating"], 10)
    model, _, _ = rounds.boost(job, quantile_matrices.quantile_matrix([(x, y)], FEATURES), None, None, lambda _: None)
    line = np.zeros((50, 4), np.float32)
    line[:, 1] = np.linspace(-2, 2, 50)
    assert (np.diff(boosting.predict(boosting.load_model(model), line, FEATURES)) >= 0).all()
