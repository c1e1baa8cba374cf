"""Boosting rounds: early stopping, checkpoints that resume to the same bytes, and a check of parameters.

Many workers run `boost` at once, inside XGBoost's communicator; a single worker runs it alone.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.core import faults
from tasks.core.errors import SettingsError
from tasks.domain import constraints
from tasks.domain.search_space import ALIASES
from tasks.domain.targets import Target
from tasks.engines import boosting

# The target, the worker or another setting decides these.
RESERVED = (
    "objective", "eval_metric", "num_class", "nthread", "device", "seed", "seed_per_iteration", "tree_method",
    "booster", "updater", "process_type",
)  # fmt: skip

# Below 1, each makes a round draw rows or columns at random.
SAMPLED = ("subsample", "colsample_bytree", "colsample_bylevel", "colsample_bynode")

Curves = dict[str, list[float]]  # slice -> its loss after each round


@dataclass(frozen=True)
class Rounds:
    """What decides the rounds, except the data. `patience`: rounds without improvement before stopping."""

    params: Mapping[str, Any]
    target: Target
    rounds: int
    patience: int | None = None
    checkpoint_every: int | None = None


@dataclass
class Checkpoint:
    """The state between two rounds: the model and the losses so far."""

    model: bytes
    curves: Curves

    @property
    def rounds(self) -> int:
        return max(map(len, self.curves.values()), default=0)


def boost(
    job: Rounds, dtrain: Any, dvalid: Any, start: Checkpoint | None, save: Callable[[Checkpoint], None]
) -> tuple[bytes, Curves, int]:
    """Train rounds from `start` on; returns the model as UBJ bytes, cut to its best round, the losses, the rounds kept.

    With `patience` the best round is the one of least loss on `dvalid`; without it the model is not cut. `save` gets a
    checkpoint every `checkpoint_every` rounds; a run that resumes from it returns the same bytes.
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
        booster.update(dtrain, done)
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


def check_params(params: Mapping[str, Any], target: Target, where: str, features: Sequence[str] = ("x",)) -> None:
    """Raise SettingsError for a parameter that XGBoost does not use, or a value that it refuses.

    XGBoost only warns about an unused parameter, so a misspelt one would go unnoticed. features: names that constraints
    may use.
    """
    import xgboost as xgb

    if reserved := sorted(set(params) & set(RESERVED)):
        fix = "see features.target and the other settings of train"
        raise SettingsError(f"{reserved[0]} is not a parameter to set here", where=where, fix=fix)
    if aliases := sorted(set(params) & set(ALIASES)):
        raise SettingsError(f"{aliases[0]} has another name here", where=where, fix=f"call it {ALIASES[aliases[0]]}")
    x, y = np.repeat(np.arange(2, dtype=np.float32)[:, None], len(features), axis=1), np.arange(2, dtype=np.float32)
    own = constraints.positional(params, features, where)
    settled = {"tree_method": "hist", "nthread": 1, **own, **target.params, "validate_parameters": True}
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            xgb.train(settled, xgb.QuantileDMatrix(x, y, nthread=1, max_bin=params.get("max_bin")), 1)
    except (xgb.core.XGBoostError, ValueError, TypeError) as error:
        # XGBoost's message begins with a clock and a line of its source, and ends with addresses.
        reason = " ".join(re.sub(r"^\[[\d:]+\] \S+: ", "", str(error)).partition("Stack trace")[0].split())
        raise SettingsError(f"XGBoost refuses {dict(params)}: {reason}", where=where, fix="change the value") from None
    for line in (str(w.message) for w in caught):
        if match := re.search(r"Parameters: \{(.*?)\} are not used", line, re.DOTALL):
            names = match.group(1).replace('"', "").strip()
            what = f"XGBoost does not use {names} for the target {target.name}"
            raise SettingsError(what, where=where, fix="check the spelling")
