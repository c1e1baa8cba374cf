"""What a model learns to say of a review: the targets, their labels and the losses they are judged by.

A target's name is chosen in conf (`features.target`), travels in the facts of every snapshot made for it, and is turned
back into a `Target` where it is needed. All that differs between targets is in its entry of `TARGETS`.
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
POSITIVE_STARS = 4  # a review of so many stars or more is a positive one


@dataclass(frozen=True)
class Target:
    """One target. A lower `metric` is better; trees are grown, searches judged and models promoted by it.

    name: as in conf. says: in words, for pages. objective: XGBoost's. metric: XGBoost's name of the loss: rmse, logloss
    or mlogloss. measures: all that evaluation reports, the metric first. low, high: the range of a prediction.
    label_of: (n,) labels of canonical reviews, given with the fewest votes that count; null where a review has none.
    classes: columns of a prediction; 1 for a number or a probability. unit: of RMSE and MAE, "" without one.
    from_stars: (n,) labels expected from (n, 4) probabilities of more than 1, 2, 3 and 4 stars, for the text score;
    None where stars do not tell the label: a model of the words then learns the label itself, a share from 0 to 1.
    leaks: groups of features that give the label away and are never learned from. off: groups that are switched off
    unless conf switches them on. caveat: a sentence for the model card.
    """

    name: str
    says: str
    objective: str
    metric: str
    measures: tuple[str, ...]
    low: float
    high: float
    label_of: Callable[[pa.Table, int], pa.Array]
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
        """XGBoost's parameters that belong to the target."""
        several = {"num_class": self.classes} if self.classes > 1 else {}
        return {"objective": self.objective, "eval_metric": self.metric, **several}


def _stars(reviews: pa.Table, _: int) -> pa.Array:
    return pa.array(reviews["rating"].to_numpy().astype(np.float32))


def _is_positive(reviews: pa.Table, _: int) -> pa.Array:
    return pa.array((reviews["rating"].to_numpy().astype(np.float32) >= POSITIVE_STARS).astype(np.float32))


def _star_class(reviews: pa.Table, _: int) -> pa.Array:
    """Classes 0 to 4: the stars rounded, less one."""
    stars = reviews["rating"].to_numpy().astype(np.float32)
    return pa.array(np.clip(np.floor(stars + 0.5), 1, 5).astype(np.float32) - 1)


def _helpful_share(reviews: pa.Table, min_votes: int) -> pa.Array:
    """The share of votes that are helpful, null where there are fewer than `min_votes` or where they are not known."""
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
            low=0,
            high=1,
            label_of=_is_positive,
            from_stars=_chance_of_positive,
        ),
        Target(
            name="stars",
            says="stars as classes",
            objective="multi:softprob",
            metric="mlogloss",
            measures=("mlogloss", "accuracy", "rmse"),
            low=0,
            high=1,
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
            low=0,
            high=1,
            label_of=_helpful_share,
            unit="share of votes",
            leaks=frozenset(),
            off=frozenset(),
            caveat="Votes came in until the data was collected: late reviews had less time to get any.",
        ),
    )
}


def target_of(name: str) -> Target:
    """Return the target of this name. Raises SettingsError for an unknown one."""
    if name not in TARGETS:
        raise SettingsError(f"unknown target {name!r}", where="features.target", fix=f"known: {', '.join(TARGETS)}")
    return TARGETS[name]


def labels(reviews: pa.Table, target: Target, min_votes: int) -> pa.Array:
    """Return the (n,) float32 labels of canonical reviews; null where a review has none.

    min_votes: with fewer votes a review has no share of helpful ones.
    """
    return target.label_of(reviews, min_votes)
