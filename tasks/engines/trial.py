"""One trial of a search, in a process of its own that imports little: a step goes on to the next rung of ASHA.

Between rungs nobody has a say, so nothing is reported there. Reused actors keep their matrices.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import tune

from tasks.core.errors import InputError
from tasks.core.targets import Target
from tasks.engines import boosting


@dataclass(frozen=True)
class Task:
    """What all trials have in common. `rungs`: rounds after which to report, the last the most there can be."""

    features: tuple[str, ...]
    target: Target
    fixed: dict[str, Any]
    rungs: tuple[int, ...]
    patience: int


class Trial(tune.Trainable):
    """Results: the least validation loss so far, its curve, whether the trial ended by itself, and its own clock."""

    def setup(self, config: dict[str, Any], data: list[Any], task: Task) -> None:
        began = time.perf_counter()
        self.task = task
        boosting.import_xgboost()
        boosting.use_threads(task.fixed["nthread"])
        train, valid = ray.get(data[0])
        self.dtrain = boosting.quantile_matrix(train, task.features)
        self.dvalid = boosting.quantile_matrix(valid, task.features, self.dtrain)
        self.label = self.dvalid.get_label()
        self.setup_s = time.perf_counter() - began
        self.idle_since: float | None = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        import xgboost as xgb

        self.booster = xgb.Booster({**self.task.fixed, **new_config}, [self.dtrain, self.dvalid])
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
        stale, failed = False, ""
        try:
            while len(self.curve) < rung and not stale and not failed:
                self.booster.update(self.dtrain, len(self.curve))
                loss = boosting.loss(self.booster, self.dvalid, self.label, self.task.target)
                failed = "" if math.isfinite(loss) else f"the loss is {loss}"
                self.curve.append(loss)
                best = best if loss >= self.curve[best] else len(self.curve) - 1
                stale = len(self.curve) - 1 - best >= self.task.patience
        except xgb.core.XGBoostError as error:
            # Raised, it would cost the actor and be tried again.
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
        """Nothing: a trial whose worker is lost begins again."""


def read(
    slices: Sequence[Sequence[Path]], features: Sequence[str]
) -> tuple[InputError | None, list[list[tuple[Any, Any]]]]:
    """What is wrong with the slices, if anything, and for each slice its batches of arrays. Run as a task, once."""
    found = []
    for files in slices:
        rows = boosting.Rows(boosting.slabs(list(files)), list(features))
        found.append(list(rows.walk()))
        if rows.problem:
            return rows.problem, []
    return None, found
