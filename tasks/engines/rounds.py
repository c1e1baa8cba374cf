"""Boosting rounds: early stopping, and checkpoints that resume to the same bytes.

Many workers run `boost` at once, inside XGBoost's communicator; a single worker runs it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.core import faults
from tasks.domain.targets import Target
from tasks.engines import boosting
from tasks.engines.checkpoints import Checkpoint, Curves
from tasks.engines.linear_start import Start, linear_tree

# Each of these below 1 makes a round draw rows or columns at random.
SAMPLED = ("subsample", "colsample_bytree", "colsample_bylevel", "colsample_bynode")


@dataclass(frozen=True)
class Rounds:
    """The settings of a training.

    patience: rounds without improvement before stopping. begin: the linear baseline's scores of the training rows,
    which the first round repeats; None to begin from the mean.
    """

    params: Mapping[str, Any]
    target: Target
    rounds: int
    patience: int | None = None
    checkpoint_every: int | None = None
    begin: Start | None = None


def boost(
    job: Rounds, dtrain: Any, dvalid: Any, start: Checkpoint | None, save: Callable[[Checkpoint], None]
) -> tuple[bytes, Curves, int]:
    """Train rounds from `start` on. Returns the model as UBJ bytes, cut to its best round, the losses, the rounds kept.

    With `patience` the best round is the one of least loss on `dvalid`; without it the model is not cut. `save` gets a
    checkpoint every `checkpoint_every` rounds. A run that resumes from a checkpoint returns the same bytes.
    """
    import xgboost as xgb

    # seed_per_iteration: a round's random draws depend on its number alone, so a resumed run draws the same.
    params = {"tree_method": "hist", "seed_per_iteration": True, **job.params}
    evals = [(dtrain, "train"), *([(dvalid, "valid")] if dvalid is not None else [])]
    labels = {name: matrix.get_label() for matrix, name in evals}
    draws = any(params.get(name, 1) < 1 for name in SAMPLED)
    # xgb.train would count the rounds of a resumed model from 0 again.
    booster = xgb.Booster(params, [m for m, _ in evals], bytearray(start.model) if start else None)
    curves: Curves = {name: list(start.curves[name]) if start else [] for _, name in evals}
    for done in range(start.rounds if start else 0, job.rounds):
        if job.patience is not None and done and done - 1 - best(curves) >= job.patience:
            break
        faults.point("train", "round", done)
        if done or job.begin is None:
            booster.update(dtrain, done)
        else:
            first = linear_tree(dtrain, job.begin, job.target, params)
            booster = xgb.Booster(params, [m for m, _ in evals], bytearray(first))
        for matrix, name in evals:
            curves[name].append(boosting.loss(booster, matrix, labels[name], job.target))
        if job.checkpoint_every and (done + 1) % job.checkpoint_every == 0 and done + 1 < job.rounds:
            save(Checkpoint(bytes(booster.save_raw("ubj")), curves))
            if draws:
                forget_draws(booster)
    kept = best(curves) + 1 if job.patience is not None else job.rounds
    model = booster if kept == booster.num_boosted_rounds() else booster[:kept]
    return bytes(model.save_raw("ubj")), curves, kept


def forget_draws(booster: Any) -> None:
    """Make XGBoost rebuild its tree updater, as a model loaded from a checkpoint does.

    The updater holds the column sampler with its own random state, seeded once and saved in no file: with `subsample`
    or `colsample_*` a resumed run would draw differently. Changing the method and back rebuilds the updater and keeps
    the cached predictions; a new Booster would pass every row through all trees again.
    """
    for method in ("approx", "hist"):
        booster.set_param({"tree_method": method})
        booster.save_config()  # makes the parameter take effect now


def best(curves: Curves) -> int:
    """Return the round, from 0, of least validation loss; the first of equals."""
    return int(np.argmin(curves["valid"]))
