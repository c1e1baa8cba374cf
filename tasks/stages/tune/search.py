"""Ray Tune runs the trials: suggestions of the study, stopped early by its forecast or by ASHA, on reused actors.

A new actor costs about 3 s of imports, so there is one for each trial that runs at a time; it is reset for the next
trial and keeps its matrices. The data is read once by a task and shared through the object store. (`Tuner(trainer)` is
deprecated, and training inside Tune has deadlocked on two CPUs, ray#54305: a trial is one process.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler

from tasks.core.errors import RunError, TransientError
from tasks.domain import constraints
from tasks.domain.targets import Target
from tasks.engines import cluster, ray_private
from tasks.stages.tune.ended_trial import Ended
from tasks.stages.tune.folds import read_folds
from tasks.stages.tune.rungs import ASHA_FACTOR, milestones
from tasks.stages.tune.settings import TuneConfig
from tasks.stages.tune.study import Study
from tasks.stages.tune.study_search import StudySearch
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
    linear: str | None,
    target: Target,
    on_end: Callable[[], None],
    folder: Path,
) -> dict[str, float]:
    """Run the trials that the study lacks; `on_end` is called after each. Returns seconds, see `Overhead`."""
    config, missing = study.config, study.missing()
    if missing <= 0:  # another machine has begun the last ones meanwhile
        return {}
    for name, value in TUNE_ENV.items():
        os.environ.setdefault(name, value)
    ray_private.clear_trial_environments()
    ray_private.keep_trial_actors()
    # No CPU claimed: trials that hold them all wait for this task.
    reading: Any = ray.remote(read_folds).options(num_cpus=0, num_returns=2)
    problem, data = reading.remote([list(train), list(valid)], list(features), config.max_rows, config.folds)
    concurrent = min(config.concurrent or cluster.cpus(), missing)
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
    task = Task(tuple(features), target, {**fixed, **target.params}, rungs, config.patience, linear)
    search = StudySearch(study, on_end)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(Trial, data=[data], task=task), {"cpu": 0.5}),
        tune_config=tune.TuneConfig(
            num_samples=missing,
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
