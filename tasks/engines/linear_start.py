"""The first round of boosting: a tree that repeats the linear baseline, so that later rounds correct its errors.

Trees that begin from the mean need many splits to follow a linear score, and with few rows they lose part of it. A
margin outside the model (`base_margin`) would do the same, but whoever loads the model would have to know of it; a tree
is part of the model. It is fitted to the baseline's prediction and not to the label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.domain.targets import Target

Array = np.ndarray[Any, Any]
DEPTH = 8  # levels: a leaf for each of up to 256 bins of the score
LEAST = 1e-3  # least probability, and its distance from one, of a score as log odds
KEPT = ("max_bin", "tree_method", "nthread", "device", "seed")  # parameters of the other rounds that hold here, too


@dataclass(frozen=True)
class Start:
    """The linear baseline's predictions of the training rows, (n,) in the target's unit, and their feature's index.

    NaN where there is none: the model begins from the mean label there.
    """

    scores: Array
    feature: int


def linear_tree(matrix: Any, start: Start, target: Target, params: Mapping[str, Any]) -> bytes:
    """Fit the tree on all ranks, inside XGBoost's communicator; return a model of one round as UBJ bytes.

    matrix: the training rows. params: of the later rounds.
    """
    import xgboost as xgb
    from xgboost import collective

    label = matrix.get_label()
    total, rows = collective.allreduce(np.array([label.sum(dtype=np.float64), len(label)]), collective.Op.SUM)
    mean = float(total / rows)
    if target.objective == "binary:logistic":
        mean = min(max(mean, LEAST), 1 - LEAST)
    wanted = link(start.scores, target)
    gradient = np.where(np.isnan(wanted), 0, link(np.array([mean]), target) - wanted).astype(np.float32)
    features = matrix.num_col()
    own = {name: params[name] for name in KEPT if name in params}
    # The weights let each node draw this feature alone.
    shape = {"max_depth": DEPTH, "eta": 1.0, "lambda": 0.0, "colsample_bynode": 1 / features, "base_score": mean}
    matrix.set_info(feature_weights=np.eye(features, dtype=np.float32)[start.feature])
    booster = xgb.Booster({"tree_method": "hist", **own, **target.params, **shape}, [matrix])
    booster.boost(matrix, 0, grad=gradient, hess=np.ones(len(label), np.float32))
    matrix.set_info(feature_weights=np.zeros(0, dtype=np.float32))  # none: ones would draw otherwise than none
    return bytes(booster.save_raw("ubj"))


def link(predictions: Array, target: Target) -> Array:
    """Convert (n,) predictions to XGBoost's margins: themselves, or their log odds for probabilities."""
    if target.objective != "binary:logistic":
        return predictions
    p = np.clip(predictions, LEAST, 1 - LEAST)
    odds: Array = np.log(p / (1 - p))
    return odds
