"""Train one trial of a search, in a process of its own that imports little. Each step trains up to the next rung.

A trial can be stopped at rungs only, so nothing is reported between them. Reused actors keep their matrices.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray import tune

from tasks.domain.losses import mean_loss, overall
from tasks.domain.targets import Target
from tasks.engines import boosting
from tasks.engines.linear_start import Start, linear_tree
from tasks.engines.quantile_matrices import plain_matrix, quantile_matrix


@dataclass(frozen=True)
class Task:
    """The input that all trials share.

    rungs: the rounds after which to report, the last one the maximum. linear: the feature that is the linear baseline.
    """

    features: tuple[str, ...]
    target: Target
    fixed: dict[str, Any]
    rungs: tuple[int, ...]
    patience: int
    linear: str | None = None


@dataclass(frozen=True)
class Matrices:
    """One fold: both matrices, the labels to compare with, and the linear baseline's predictions of the first."""

    learned: Any
    compared: Any
    label: Any
    start: Start | None

    @classmethod
    def of(cls, learn: Any, compare: Any, task: Task) -> Matrices:
        learned = quantile_matrix(learn, task.features, max_bin=task.fixed["max_bin"])
        compared = plain_matrix(compare, task.features, task.fixed["nthread"])
        start = None
        if task.linear is not None:
            feature = task.features.index(task.linear)
            start = Start(np.concatenate([x[:, feature] for x, _ in learn]), feature)
        return cls(learned, compared, compared.get_label(), start)


class Trial(tune.Trainable):
    """A trial that reports its least validation loss so far, its loss curve, whether it is complete, and its times."""

    def setup(self, config: dict[str, Any], data: list[Any], task: Task) -> None:  # type: ignore[override]  # by Tune
        began = time.perf_counter()
        self.task = task
        boosting.import_xgboost()
        boosting.use_threads(task.fixed["nthread"])
        try:
            folds = ray.get(data[0])
        except ray.exceptions.RayTaskError:
            folds = []  # the search reports why reading failed; a lost worker raises another error, and is retried
        self.folds = [Matrices.of(learn, compare, task) for learn, compare in folds]
        self.setup_s = time.perf_counter() - began
        self.idle_since: float | None = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        import xgboost as xgb

        params = {**self.task.fixed, **new_config}
        self.from_linear = params.pop("begin", "mean") == "linear"
        first = [
            linear_tree(f.learned, f.start, self.task.target, params) if f.start and self.from_linear else None
            for f in self.folds
        ]
        self.boosters = [
            xgb.Booster(params, [fold.learned, fold.compared], bytearray(tree) if tree else None)
            for fold, tree in zip(self.folds, first, strict=True)
        ]
        self.curve: list[float] = []
        self.idle_s = self.busy_s = 0.0
        return True

    def step(self) -> dict[str, Any]:
        import xgboost as xgb

        began = time.perf_counter()
        if self.idle_since is not None:
            self.idle_s += began - self.idle_since
        best = int(np.argmin(self.curve)) if self.curve else 0
        rung = next(r for r in self.task.rungs if r > len(self.curve))
        stale, failed = False, "" if self.folds else "there is no data to learn from"
        try:
            while len(self.curve) < rung and not stale and not failed:
                loss = self.round(len(self.curve))
                failed = "" if math.isfinite(loss) else f"the loss is {loss}"
                self.curve.append(loss)
                best = best if loss >= self.curve[best] else len(self.curve) - 1
                stale = len(self.curve) - 1 - best >= self.task.patience
        except xgb.core.XGBoostError as error:
            # Raising it would kill the actor and retry the trial.
            failed = next((s for s in str(error).splitlines() if "Check failed" in s), str(error))
            failed = failed.rpartition("Check failed:")[2].strip()
        whole = stale or len(self.curve) >= self.task.rungs[-1]
        self.idle_since = time.perf_counter()
        self.busy_s += self.idle_since - began
        return {
            "loss": self.curve[best] if self.curve else math.nan,
            "rounds": len(self.curve),
            "curve": self.curve,
            "whole": whole,
            "failed": failed,
            "done": whole or bool(failed),
            "idle_s": self.idle_s,
            "busy_s": self.busy_s,
            "setup_s": self.setup_s,
        }

    def round(self, number: int) -> float:
        """Boost one round on each fold; return the loss over the compared rows of all."""
        metric, total, rows = self.task.target.metric, 0.0, 0
        for fold, booster in zip(self.folds, self.boosters, strict=True):
            if number or not self.from_linear:
                booster.update(fold.learned, number)
            loss = boosting.loss(booster, fold.compared, fold.label, self.task.target)
            total += mean_loss(metric, loss) * len(fold.label)
            rows += len(fold.label)
        return overall(metric, total / rows)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing: a trial whose worker is lost starts again."""
