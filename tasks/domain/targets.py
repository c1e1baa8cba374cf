"""The targets that a model can learn, with their labels, losses and measures.

The setting `features.target` names one; the facts of every snapshot made for it keep the name, and `target_of` turns it
into a `Target`. All that differs between targets is in their entries of `TARGETS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.errors import SettingsError

Array = np.ndarray[Any, Any]
POSITIVE_STARS = 4  # a review with at least so many stars is positive


@dataclass(frozen=True)
class Target:
    """One target. Training, search and promotion minimize `metric`.

    name: as in the settings. says: a description for pages. objective: XGBoost's. metric: XGBoost's name of the loss:
    rmse, logloss or mlogloss. measures: all that evaluation reports, the metric first. low, high: the range of a
    prediction. label_of: computes (n,) labels from canonical reviews and the setting min_votes; null where a review has
    none. classes: columns of a prediction; 1 for a number or a probability. unit: of RMSE and MAE, "" without one.
    from_stars: computes (n,) expected labels from (n, 4) probabilities of more than 1, 2, 3 and 4 stars, for the text
    score; None if stars do not determine the label: a model of the words then learns the label itself, a share from 0
    to 1. leaks: groups of features that give the label away and are never used. off: groups that are off by default.
    caveat: a sentence for the model card.
    """

    name: str
    says: str
    objective: str
    metric: str
    measures: tuple[str, ...]
    label_of: Callable[[pa.Table, int], pa.Array]
    low: float = 0
    high: float = 1
    classes: int = 1
    unit: str = ""
    from_stars: Callable[[Array], Array] | None = None
    leaks: frozenset[str] = frozenset({"stars"})
    off: frozenset[str] = frozenset({"helpful"})
    caveat: str = ""

    @property
    def is_regression(self) -> bool:
        return self.metric == "rmse"

    @property
    def params(self) -> dict[str, Any]:
        """Return XGBoost's parameters that depend on the target."""
        classes = {"num_class": self.classes} if self.classes > 1 else {}
        return {"objective": self.objective, "eval_metric": self.metric, **classes}


def _stars(reviews: pa.Table, _: int) -> pa.Array:
    return pa.array(reviews["rating"].to_numpy().astype(np.float32))


def _is_positive(reviews: pa.Table, _: int) -> pa.Array:
    return pa.array((reviews["rating"].to_numpy().astype(np.float32) >= POSITIVE_STARS).astype(np.float32))


def _star_class(reviews: pa.Table, _: int) -> pa.Array:
    """Return classes 0 to 4: the rounded stars minus one."""
    stars = reviews["rating"].to_numpy().astype(np.float32)
    return pa.array(np.clip(np.floor(stars + 0.5), 1, 5).astype(np.float32) - 1)


def _helpful_share(reviews: pa.Table, min_votes: int) -> pa.Array:
    """Return the share of helpful votes; null with fewer than `min_votes` or unknown votes."""
    helpful, total = (reviews[c].cast(pa.float32()) for c in ("helpful_votes", "total_votes"))
    enough = pc.fill_null(pc.greater_equal(total, float(min_votes)), False)
    return pc.if_else(enough, pc.divide(helpful, total), pa.scalar(None, pa.float32())).combine_chunks()


def _expected_stars(more_than: Array) -> Array:
    stars: Array = 1 + more_than.sum(axis=1)
    return stars


def _chance_of_positive(more_than: Array) -> Array:
    chance: Array = more_than[:, POSITIVE_STARS - 2]  # of more than 3 stars
    return chance


TARGETS = {
    t.name: t
    for t in (
        Target(
            name="rating",
            says="stars",
            objective="reg:squarederror",
            metric="rmse",
            measures=("rmse", "mae"),
            low=1,
            high=5,
            label_of=_stars,
            unit="stars",
            from_stars=_expected_stars,
        ),
        Target(
            name="positive",
            says=f"{POSITIVE_STARS} stars or more",
            objective="binary:logistic",
            metric="logloss",
            measures=("logloss", "auc", "accuracy"),
            label_of=_is_positive,
            from_stars=_chance_of_positive,
        ),
        Target(
            name="stars",
            says="stars as classes",
            objective="multi:softprob",
            metric="mlogloss",
            measures=("mlogloss", "accuracy", "rmse"),
            label_of=_star_class,
            classes=5,
            unit="stars",
            from_stars=_expected_stars,
        ),
        Target(
            name="helpful",
            says="share of helpful votes",
            objective="reg:squarederror",
            metric="rmse",
            measures=("rmse", "mae"),
            label_of=_helpful_share,
            unit="share of votes",
            leaks=frozenset(),
            off=frozenset(),
            caveat="Votes came in until the data was collected: late reviews had less time to get any.",
        ),
    )
}


def target_of(name: str) -> Target:
    """Return the target with this name. Raises SettingsError for an unknown name."""
    if name not in TARGETS:
        raise SettingsError(f"unknown target {name!r}", where="features.target", fix=f"known: {', '.join(TARGETS)}")
    return TARGETS[name]


def labels(reviews: pa.Table, target: Target, min_votes: int) -> pa.Array:
    """Return the (n,) float32 labels of canonical reviews; null where a review has none.

    min_votes: the fewest votes for which the share of helpful ones is a label.
    """
    return target.label_of(reviews, min_votes)
