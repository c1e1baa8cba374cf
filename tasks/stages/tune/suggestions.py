"""Suggest the next trial of a study: by the forecast, by Optuna's TPE, at random or from a grid."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import threadpool_limits

from tasks.domain.search_space import Axis
from tasks.stages.tune.forecast import Forecast
from tasks.stages.tune.rungs import FORECAST_FACTOR, rungs
from tasks.stages.tune.settings import TuneConfig
from tasks.stages.tune.trial_points import Seen

STARTS = 4  # trials before the forecast suggests any: first conf's parameters, then random ones


def in_order(study: optuna.Study) -> list[FrozenTrial]:
    """Return all trials except lost and failed ones, by number."""
    return [t for t in study.get_trials(deepcopy=False) if t.state != TrialState.FAIL]


def seen(trial: FrozenTrial) -> Seen:
    """Return a trial's losses so far: at rungs while it runs, after each round once it has ended."""
    ended = enumerate(itertools.accumulate(trial.user_attrs.get("curve", []), min), 1)
    losses = {**trial.intermediate_values, **dict(ended)}
    return Seen(
        trial.number, trial.params, losses, trial.state == TrialState.RUNNING, trial.state == TrialState.COMPLETE
    )


def one_thread() -> AbstractContextManager[None]:
    """Limit BLAS to one thread: on matrices as small as a forecast's, more only spin, on cores that trials need."""
    limits: AbstractContextManager[None] = threadpool_limits(1, "blas")
    return limits


def forecast(config: TuneConfig, trials: Sequence[FrozenTrial]) -> Forecast:
    """Fit a forecast to the trials with all parameters: one that another machine is just beginning may lack some.
    Raises ValueError if no trial has a loss."""
    usable = [seen(trial) for trial in trials if trial.params.keys() >= config.space.keys()]
    return Forecast(config.axes, rungs(config, FORECAST_FACTOR), usable)


def distribution(axis: Axis) -> BaseDistribution:
    if axis.choice is not None:
        return CategoricalDistribution(axis.choice)
    if axis.whole:
        return IntDistribution(int(axis.low or 0), int(axis.high or 0), log=axis.log)
    return FloatDistribution(float(axis.low or 0), float(axis.high or 0), log=axis.log)


def combinations(config: TuneConfig) -> list[dict[str, Any]]:
    """Return all combinations of the axes' points, shuffled by the seed so that the first few are a fair sample."""
    axes = [[(name, value) for value in axis.points(config.grid_points)] for name, axis in config.axes.items()]
    grid = [dict(point) for point in itertools.product(*axes)]
    random.Random(config.seed).shuffle(grid)
    return grid


class Suggestions(optuna.samplers.BaseSampler):
    """Suggest conf's parameters first, then those that the algorithm derives from the earlier trials and a seed.

    The seed depends on the trials' number. `began` is called with a trial's Optuna id before its parameters are chosen.
    """

    def __init__(self, config: TuneConfig, grid: Sequence[dict[str, Any]] | None, began: Callable[[int], None]) -> None:
        self.config = config
        self.began = began
        self.grid = grid
        axes = config.axes
        self.first = {n: v for n, v in config.first.items() if v is not None and n in axes and axes[n].holds(v)}
        self.given: dict[str, Any] = {}
        self.inner: Any = None

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.began(trial._trial_id)
        before = [t for t in in_order(study) if t.number < trial.number]
        used = [t.params for t in before]
        seed = random.Random(f"{self.config.seed}:{len(before)}").getrandbits(32)
        self.inner = optuna.samplers.RandomSampler(seed=seed)
        # Not simply for trial number 0: that one may have been lost while the second continued.
        tried = any(self.first.items() <= params.items() for params in used)
        if self.grid is not None:
            # Two machines that ask at the same time may get the same combination.
            self.given = next((p for p in self.grid if p not in used), self.grid[0])
        elif not tried:
            self.given = self.first
        elif self.config.algorithm == "gp" and len(before) >= STARTS and any(seen(t).losses for t in before):
            with one_thread():
                self.given = forecast(self.config, before).suggestion(seed)
        else:
            self.given = {}
        if self.config.algorithm == "tpe":
            drawn = min(10, max(4, self.config.trials // 3))  # random trials, before TPE has enough to model
            self.inner = optuna.samplers.TPESampler(seed=seed, n_startup_trials=drawn)
        self.inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self.inner.infer_relative_search_space(study, trial))

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return dict(self.inner.sample_relative(study, trial, search_space))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if param_name in self.given:
            return self.given[param_name]
        return self.inner.sample_independent(study, trial, param_name, param_distribution)
