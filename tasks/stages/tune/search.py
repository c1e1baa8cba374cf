"""Ray Tune runs the trials: suggestions of the study, stopped early by its forecast or by ASHA, on reused actors.

A new actor costs about 3 s of imports, so there is one for each trial that runs at a time; it is reset for the next
trial and keeps its matrices. The data is read once by a task and shared through the object store. A trial reports at
rungs alone: a report is a round trip to the driver, and nobody could act on another. (`Tuner(trainer)` is deprecated,
and training inside Tune has deadlocked on two CPUs, ray#54305: a trial is one process.)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search import Searcher

from tasks.core.errors import RunError, TransientError
from tasks.domain import constraints
from tasks.domain.targets import Target
from tasks.engines import boosting, cluster, ray_private
from tasks.stages.tune.settings import TuneConfig
from tasks.stages.tune.study import Ended, Study
from tasks.stages.tune.suggestions import ASHA_FACTOR, milestones
from tasks.stages.tune.trial import Task, Trial

# Read by Tune when it is used. Its own record of the search is of no use: the study is the record.
TUNE_ENV = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def run(
    study: Study,
    *,
    train: Sequence[Path],
    valid: Sequence[Path],
    features: Sequence[str],
    target: Target,
    on_end: Callable[[], None],
    folder: Path,
) -> dict[str, float]:
    """Run the trials that the study lacks; `on_end` is called after each. Returns seconds, see `Overhead`."""
    config = study.config
    for name, value in TUNE_ENV.items():
        os.environ.setdefault(name, value)
    ray_private.clear_trial_environments()
    ray_private.keep_trial_actors()
    # No CPU claimed: trials that hold them all wait for this task.
    reading: Any = ray.remote(boosting.read_slices).options(num_cpus=0, num_returns=2)
    problem, data = reading.remote([list(train), list(valid)], list(features))
    concurrent = min(config.concurrent or cluster.cpus(), study.missing())
    rungs = milestones(config)
    # On a cluster a trial may have a node to itself; no more threads than that node has cores.
    threads = min(max(1, cluster.cpus() // concurrent), cluster.node_cpus())
    fixed = {
        **constraints.positional(config.fixed, features, "train.params"),
        "tree_method": "hist",
        "max_bin": config.max_bin,
        "seed": config.seed,
        "seed_per_iteration": True,
        "nthread": threads,
    }
    task = Task(tuple(features), target, {**fixed, **target.params}, rungs, config.patience)
    search = StudySearch(study, on_end)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(Trial, data=[data], task=task), {"cpu": 0.5}),
        tune_config=tune.TuneConfig(
            num_samples=study.missing(),
            max_concurrent_trials=concurrent,
            search_alg=search,
            scheduler=asha(config, study.ended()) if config.stopping == "asha" else None,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder),
            name="search",
            verbose=0,
            stop=search,
            # A lost worker: the trial begins again, in a new one.
            failure_config=tune.FailureConfig(max_failures=2),
        ),
    )
    # The actors start while the data is read, and end at once if there is something wrong with it.
    with study.beating():
        results = tuner.fit()
    for found in cluster.gather([problem]):
        if found is not None:
            raise found
    if search.failed:
        raise RunError(f"XGBoost failed: {search.failed}", where="tune", fix="check tune.space")
    if results.num_errors:
        error = results.errors[0]
        kind = TransientError if cluster.is_lost(error) or "died" in str(error) else RunError
        raise kind(f"{results.num_errors} trials failed, the first: {error}", where="tune") from error
    return search.overhead.seconds()


def asha(config: TuneConfig, earlier: Sequence[Ended]) -> AsyncHyperBandScheduler:
    """ASHA that has seen the earlier trials at its rungs: those to come are compared with them, too."""
    rungs = milestones(config)
    scheduler = AsyncHyperBandScheduler(
        time_attr="rounds",
        metric="loss",
        mode="min",
        max_t=config.max_rounds,
        grace_period=rungs[0],
        reduction_factor=ASHA_FACTOR,
    )
    for number, trial in enumerate(earlier):
        seen: Any = tune.experiment.Trial("earlier", trial_id=f"earlier-{number}", stub=True)
        nobody: Any = None  # the scheduler asks its controller for nothing here
        scheduler.on_trial_add(nobody, seen)
        for rung in rungs[:-1]:
            if rung <= len(trial.curve):
                scheduler.on_trial_result(nobody, seen, {"rounds": rung, "loss": min(trial.curve[:rung])})
    return scheduler


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
