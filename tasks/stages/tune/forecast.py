"""Predict a trial's final loss from its rounds so far and from earlier trials.

Successive halving compares trials after the same few rounds, which favours large steps: on real reviews it ranks trials
in the wrong order for the first fifth of their rounds (decision 014). Here a Gaussian process learns the least loss so
far as a function of a trial's parameters and rounds. Its prediction for the last round chooses the next trial (expected
improvement; Jones, Schonlau and Welch 1998) and stops trials that are unlikely to become the best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import ndtr

from tasks.algorithms.gaussian_process import GaussianProcess, fit
from tasks.domain.search_space import Axis, Value
from tasks.stages.tune.trial_points import Coordinates, Seen

ANYWHERE, NEAR, CENTRES, RADIUS = 512, 48, 4, 0.12  # candidates: some anywhere, and NEAR around each of the best trials
# The process learns from at most so many, at cubic cost. Of more it takes the last one of each of the latest trials.
MOST_POINTS = 256
FLOOR = 0.9  # share of the best loss; the process models the logarithm of the difference between a loss and this floor
DEPTH = 6.0  # XGBoost's default, for a space without it, and for a trial without a limit


class Forecast:
    """A Gaussian process fitted to trials. `rungs`: the rounds at which it learns, the last one a trial's maximum.

    Raises ValueError if no trial has a loss.
    """

    def __init__(self, space: Mapping[str, Axis], rungs: Sequence[int], trials: Sequence[Seen]) -> None:
        self.at, self.rungs = Coordinates(space, rungs), rungs
        self.running = [trial.params for trial in trials if trial.running]
        self.trials = sorted((t for t in trials if t.losses), key=lambda t: t.loss)
        if not self.trials:
            raise ValueError("no trial has a loss")
        self.best = self.trials[0].loss
        seen = [self._points(trial) for trial in self.trials]
        if sum(map(len, seen)) > MOST_POINTS:
            latest = sorted(range(len(seen)), key=lambda i: self.trials[i].number)[-MOST_POINTS:]
            seen = [seen[i][-1:] for i in latest]
        self.points, values = zip(*(point for points in seen for point in points), strict=True)
        self.values = np.array(values)
        self.kernel = fit(self.points, self.values, self.at.lengths)
        self.process = GaussianProcess(self.kernel, self.points, self.values)

    def _points(self, trial: Seen) -> list[tuple[list[float], float]]:
        """Return a point and a value for the least loss at each rung; a complete trial keeps its loss to the last."""
        last = self.rungs[-1] if trial.whole else max(trial.losses)
        upto = [(r, [loss for rounds, loss in trial.losses.items() if rounds <= r]) for r in self.rungs if r <= last]
        return [(self.at(trial.params, rung), self._above(min(losses))) for rung, losses in upto if losses]

    def _above(self, loss: float) -> float:
        """Return the logarithm of a loss above the floor, which magnifies differences near the best loss."""
        return math.log(max(loss - FLOOR * self.best, 1e-12))

    def end(self, params: Mapping[str, Value]) -> list[float]:
        return self.at(params, self.rungs[-1])

    def chance(self, number: int) -> float:
        """Return the probability that the trial of this number, which has a loss, ends below all others so far."""
        (this,) = (trial for trial in self.trials if trial.number == number)
        others = min((trial.loss for trial in self.trials if trial is not this), default=math.inf)
        if this.loss < others:
            return 1.0
        mean, deviation = self.process.predict([self.end(this.params)])
        return float(ndtr((self._above(others) - mean[0]) / deviation[0]))

    def suggestion(self, seed: int) -> dict[str, Value]:
        """Return the parameters of most expected improvement per work, among candidates that the seed draws.

        Running trials are assumed to end as predicted. The work of a tree is a pass over the rows for each level.
        """
        process = self.process
        if ends := [self.end(params) for params in self.running]:
            values = np.concatenate([self.values, process.predict(ends)[0]])
            process = GaussianProcess(self.kernel, [*self.points, *ends], values)
        rng = np.random.default_rng(seed)
        axes = len(self.at.space)
        near = [rng.normal(self.at.shares(t.params), RADIUS, (NEAR, axes)) for t in self.trials[:CENTRES]]
        drawn = np.clip(np.vstack([rng.random((ANYWHERE, axes)), *near]), 0.0, 1.0)
        candidates = [self.at.params(shares) for shares in drawn.tolist()]
        mean, deviation = process.predict([self.end(params) for params in candidates])
        gain = (self._above(self.best) - mean) / deviation
        expected = deviation * (gain * ndtr(gain) + np.exp(-0.5 * gain * gain) / math.sqrt(2 * math.pi))
        work = [float(params.get("max_depth", 0)) or DEPTH for params in candidates]
        return candidates[int(np.argmax(expected / work))]
