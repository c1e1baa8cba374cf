"""Ray Tune: trials of XGBoost under Optuna's TPE, stopped early by ASHA, on actors that are reused.

A new actor per trial would cost about 3 s of imports, so actors are reset and keep their matrices. The data is read
once by a task and shared through the object store. (`Tuner(trainer)` is deprecated, and training inside Tune has
deadlocked on two CPUs, ray#54305: a trial is one process with one thread.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search.optuna import OptunaSearch

from tasks.core.errors import RunError
from tasks.core.settings import TuneConfig
from tasks.engines import boosting

PATIENCE = 30  # rounds without a better one after which a trial ends by itself
ROUNDS_PER_STEP = 20  # a report is a round trip to the driver: one every twenty rounds


def run(
    *,
    train: Sequence[Path],
    valid: Sequence[Path],
    features: Sequence[str],
    config: TuneConfig,
    earlier: Sequence[dict[str, Any]],
    on_end: Callable[[dict[str, Any]], None],
    folder: Path,
) -> None:
    """Run the trials that are missing after `earlier`; `on_end` gets each ended one."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # No CPU claimed: trials that hold them all wait for this task.
    data = ray.remote(read).options(num_cpus=0).remote(list(train), list(valid), list(features))
    space = {name: _domain(bounds) for name, bounds in config.space.items()}
    searcher = OptunaSearch(
        space,
        metric="valid_rmse",
        mode="min",
        seed=config.seed,
        points_to_evaluate=[t["params"] for t in earlier] or None,
        evaluated_rewards=[t["valid_rmse"] for t in earlier] or None,
    )
    steps = -(-config.max_rounds // ROUNDS_PER_STEP)
    grace = min(steps, max(1, config.min_rounds // ROUNDS_PER_STEP))
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(Trial, data=[data], features=list(features), settings=config), {"cpu": 0.5}
        ),
        tune_config=tune.TuneConfig(
            metric="valid_rmse",
            mode="min",
            num_samples=config.trials - len(earlier),
            max_concurrent_trials=config.concurrent,
            search_alg=searcher,
            scheduler=AsyncHyperBandScheduler(max_t=steps, grace_period=grace, reduction_factor=3),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=str(folder), name="search", verbose=0, callbacks=[OnEnd(on_end)]),
    )
    results = tuner.fit()
    if results.num_errors:
        raise RunError(f"{results.num_errors} trials failed, the first: {results.errors[0]}", where="tune")


class OnEnd(tune.Callback):
    """Hands each ended trial over, in the driver."""

    def __init__(self, on_end: Callable[[dict[str, Any]], None]) -> None:
        self.on_end = on_end

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        last = trial.last_result
        # A trial that ran to its last step is complete; ASHA stopped the others on the way.
        status = "complete" if last["whole"] else "pruned"
        kept = {name: last[name] for name in ("curve", "best_round", "valid_rmse")}
        self.on_end({"params": dict(trial.config), "status": status, **kept})


class Trial(tune.Trainable):
    """One trial; a step is ROUNDS_PER_STEP boosting rounds. Reused actors keep their matrices."""

    def setup(self, config: dict[str, Any], data: Any, features: list[str], settings: TuneConfig) -> None:
        (train, valid) = ray.get(data[0])
        self.settings = settings
        self.dtrain = boosting.quantile_matrix([train], features)
        self.dvalid = boosting.quantile_matrix([valid], features, self.dtrain)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        import xgboost as xgb

        fixed = {"objective": "reg:squarederror", "tree_method": "hist", "nthread": 1, "seed": self.settings.seed}
        self.params = {**fixed, **new_config}
        self.booster = xgb.Booster(self.params, [self.dtrain, self.dvalid])
        self.curve: list[float] = []
        return True

    def step(self) -> dict[str, Any]:
        rounds = min(ROUNDS_PER_STEP, self.settings.max_rounds - len(self.curve))
        for _ in range(rounds):
            self.booster.update(self.dtrain, len(self.curve))
            self.curve.append(float(self.booster.eval(self.dvalid).rpartition(":")[2]))
        best = int(np.argmin(self.curve))
        whole = len(self.curve) >= self.settings.max_rounds
        stale = len(self.curve) - best > PATIENCE
        return {
            "valid_rmse": self.curve[best],
            "best_round": best,
            "curve": list(self.curve),
            "whole": whole or stale,
            "done": whole or stale,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        (Path(checkpoint_dir) / "model.ubj").write_bytes(bytes(self.booster.save_raw("ubj")))


def read(train: list[Path], valid: list[Path], features: list[str]) -> list[tuple[Any, Any]]:
    """Train and validation arrays, each whole."""
    slices = [list(boosting.batches(files, features)) for files in (train, valid)]
    return [(np.concatenate([x for x, _ in s]), np.concatenate([y for _, y in s])) for s in slices]


def _domain(bounds: Sequence[Any]) -> Any:
    d = optuna.distributions
    low, high, log = bounds[0], bounds[1], len(bounds) > 2
    whole = isinstance(low, int) and isinstance(high, int)
    return d.IntDistribution(low, high, log=log) if whole else d.FloatDistribution(float(low), float(high), log=log)
