"""A trial so far, and its parameters and rounds as points of the space in which the forecast learns.

Boosting progresses with the sum of its steps, so trials with different learning rates follow the same curve when
progress is measured in eta x rounds (Friedman 2001, on shrinkage). The points hold this product in place of the rounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.domain.search_space import Axis, Value

PROGRESS_LENGTH = 0.4  # prior length of the kernel along the progress; along each parameter it is 1, the whole range
ETA = 0.3  # XGBoost's default, for a space without it


@dataclass(frozen=True)
class Seen:
    """A trial so far: the least loss after some numbers of rounds, and whether it is complete (`whole`)."""

    number: int
    params: Mapping[str, Value]
    losses: Mapping[int, float]
    running: bool = False
    whole: bool = False

    @property
    def loss(self) -> float:
        return min(self.losses.values(), default=math.inf)


class Coordinates:
    """Map parameters and rounds to points: ranges scaled to 0 to 1, choices one-hot, and the progress last."""

    def __init__(self, space: Mapping[str, Axis], rungs: Sequence[int]) -> None:
        self.space = space
        etas = [float(eta) for eta in (space["eta"].ends() if "eta" in space else (ETA,))]
        self.start, self.end = math.log(min(etas) * rungs[0]), math.log(max(etas) * rungs[-1])
        dimensions = sum(len(axis.choice or (1,)) for axis in space.values())
        self.lengths = [1.0] * dimensions + [PROGRESS_LENGTH]

    def params(self, shares: Sequence[float]) -> dict[str, Value]:
        """Return the parameters at these shares of the axes, from 0 to 1."""
        return {name: axis.at(share) for (name, axis), share in zip(self.space.items(), shares, strict=True)}

    def shares(self, params: Mapping[str, Value]) -> list[float]:
        return [axis.share(params[name]) for name, axis in self.space.items()]

    def __call__(self, params: Mapping[str, Value], rounds: int) -> list[float]:
        at: list[float] = []
        for name, axis in self.space.items():
            value = params[name]
            at += [float(value == other) for other in axis.choice] if axis.choice else [axis.share(value)]
        progress = math.log(float(params.get("eta", ETA)) * rounds)
        return [*at, (progress - self.start) / ((self.end - self.start) or 1.0)]
