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

from tasks.domain.targets import Target
from tasks.engines import boosting
from tasks.engines.quantile_matrices import quantile_matrix


@dataclass(frozen=True)
class Task:
    """The input that all trials share. `rungs`: the rounds after which to report, the last one the maximum."""

    features: tuple[str, ...]
    target: Target
    fixed: dict[str, Any]
    rungs: tuple[int, ...]
    patience: int


class Trial(tune.Trainable):
    """A trial that reports its least validation loss so far, its loss curve, whether it is complete, and its times."""

    def setup(self, config: dict[str, Any], data: list[Any], task: Task) -> None:  # type: ignore[override]  # by Tune
        began = time.perf_counter()
        self.task = task
        boosting.import_xgboost()
        boosting.use_threads(task.fixed["nthread"])
        try:
            slices = ray.get(data[0])
        except ray.exceptions.RayTaskError:
            slices = []  # the search reports why reading failed; a lost worker raises another error, and is retried
        bins = task.fixed["max_bin"]
        self.dtrain: Any = quantile_matrix(slices[0], task.features, max_bin=bins) if slices else None
        self.dvalid: Any = quantile_matrix(slices[1], task.features, self.dtrain, bins) if slices else None
        self.label = self.dvalid.get_label() if self.dvalid else None
        self.setup_s = time.perf_counter() - began
        self.idle_since: float | None = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        import xgboost as xgb

        params = {**self.task.fixed, **new_config}
        self.booster: Any = xgb.Booster(params, [self.dtrain, self.dvalid]) if self.dtrain else None
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
        stale, failed = False, "" if self.dtrain else "there is no data to learn from"
        try:
            while len(self.curve) < rung and not stale and not failed:
                self.booster.update(self.dtrain, len(self.curve))
                loss = boosting.loss(self.booster, self.dvalid, self.label, self.task.target)
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

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing: a trial whose worker is lost starts again."""
