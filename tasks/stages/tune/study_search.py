"""The study as a searcher and a stopper of Ray Tune, and what the search costs beside boosting."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from tasks.stages.tune.study import Study


class StudySearch(Searcher, tune.Stopper):
    """Hands suggestions of the study to Tune and results of Tune to the study, which says what is to be stopped.

    All is stopped when a trial has failed.
    """

    def __init__(self, study: Study, on_end: Callable[[], None]) -> None:
        super().__init__(metric="loss", mode="min")
        self.study = study
        self.on_end = on_end
        self.failed = ""
        self.overhead = Overhead()

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]  # Ray's own searchers do so
        if self.failed or self.study.missing() <= 0:
            return Searcher.FINISHED
        return self.study.ask(trial_id)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether to stop a trial that is at a rung."""
        if result["done"]:
            return False
        self.study.report(trial_id, result["loss"], result["rounds"])
        return self.study.config.stopping == "forecast" and not self.study.promising(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if error or not result or result["failed"]:
            self.study.fail(trial_id)
            self.failed = self.failed or (result or {}).get("failed", "")
            return
        self.study.tell(trial_id, result["curve"], whole=result["whole"])
        self.overhead.add(result)
        self.on_end()

    def stop_all(self) -> bool:
        return bool(self.failed)

    def __deepcopy__(self, memo: dict[int, Any]) -> StudySearch:
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: the tuner pickles all that it was given, to be restored from, which nobody does."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is kept elsewhere, as it grows."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search is taken up from its study")


class Overhead:
    """What the search cost beside boosting, by the trials' own clocks."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.trials = 0
        self.idle_s = self.busy_s = self.setup_s = 0.0
        self.started_s: float | None = None

    def add(self, result: dict[str, Any]) -> None:
        if self.started_s is None:
            self.started_s = time.perf_counter() - self.began - result["busy_s"] - result["idle_s"]
        self.trials += 1
        self.idle_s += result["idle_s"]
        self.busy_s += result["busy_s"]
        self.setup_s = max(self.setup_s, result["setup_s"])

    def seconds(self) -> dict[str, float]:
        """start: until the first round, actors and matrices. boosting: mean per trial. waiting: mean per trial."""
        trials = max(1, self.trials)
        return {
            "start_s": round(self.started_s or 0.0, 3),
            "boosting_s_per_trial": round(self.busy_s / trials, 4),
            "waiting_s_per_trial": round(self.idle_s / trials, 4),
        }
