"""The search space of hyper-parameters, checked against XGBoost's ranges.

In conf a parameter is [low, high] (uniform), [low, high, log] (log-uniform) or {choice: [a, b, ...]}; two integers stay
integers, and null removes a parameter that a lower layer sets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_serializer, model_validator

# What can be searched: the least and the largest value, and whether the least is allowed. Two integers: integers only.
_SHARE = (0.0, 1.0, False)
_FROM_0 = (0.0, math.inf, True)
NUMBERS: dict[str, tuple[float, float, bool]] = {
    "eta": _SHARE,
    "gamma": _FROM_0,
    "max_depth": (0, 1 << 10, True),
    "max_leaves": (0, 1 << 20, True),
    "min_child_weight": _FROM_0,
    "max_delta_step": _FROM_0,
    "subsample": _SHARE,
    "colsample_bytree": _SHARE,
    "colsample_bylevel": _SHARE,
    "colsample_bynode": _SHARE,
    "lambda": _FROM_0,
    "alpha": _FROM_0,
    "num_parallel_tree": (1, 1 << 10, True),
    "scale_pos_weight": (0.0, math.inf, False),
}
WORDS = {"grow_policy": ("depthwise", "lossguide"), "begin": ("mean", "linear")}
ALIASES = {
    "learning_rate": "eta",
    "min_split_loss": "gamma",
    "reg_lambda": "lambda",
    "reg_alpha": "alpha",
}
# Decided elsewhere: trials share a matrix, are compared at their best round, and get the rest from target and machine.
DECIDED = {
    "objective": "features.target",
    "eval_metric": "features.target",
    "num_class": "features.target",
    "seed": "tune.seed",
    "nthread": "tune.concurrent",
    "device": "the machine",
    "tree_method": "the shared matrix",
    "max_bin": "tune.max_bin",
    "booster": "the cut at the best round, which dropout of trees does not allow",
    "n_estimators": "tune.max_rounds",
    "num_boost_round": "tune.max_rounds",
}

FORMS = "expected [low, high], [low, high, log] or {choice: [a, b, ...]}"
Algorithm = Literal["gp", "tpe", "random", "grid"]
Stopping = Literal["forecast", "asha", "patience"]
Value = float | int | str


class Axis(BaseModel):
    """One parameter's values: from `low` to `high`, both included, or one of `choice`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    choice: tuple[Value, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_conf(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and set(value) == {"choice"}:
            value = value["choice"]
            if not isinstance(value, (list, tuple)) or not value:
                raise ValueError(f"expected {{choice: [a, b, ...]}}, got {value!r}")
            if len(set(value)) < len(value):
                raise ValueError(f"a choice is given twice in {list(value)}")
            return {"choice": tuple(value)}
        if isinstance(value, (list, tuple)):
            low_high, scale = value[:2], list(value[2:])
            if len(low_high) != 2 or not all(_is_number(b) for b in low_high) or scale not in ([], ["log"]):
                raise ValueError(f"{FORMS}, got {list(value)}")
            return {"low": low_high[0], "high": low_high[1], "log": bool(scale)}
        if isinstance(value, Mapping) and set(value) == set(cls.model_fields):
            return value  # as in manifests of earlier versions
        raise ValueError(f"{FORMS}, got {value!r}")

    @model_serializer
    def _to_conf(self) -> Any:
        if self.choice is not None:
            return {"choice": list(self.choice)}
        return [self.low, self.high, *(["log"] if self.log else [])]

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def ends(self) -> tuple[Value, ...]:
        """The least and the greatest value, or all of a choice."""
        return self.choice if self.choice is not None else (self.low or 0, self.high or 0)

    def holds(self, value: Value) -> bool:
        """Whether the value lies on this axis."""
        if self.choice is not None:
            return value in self.choice
        if isinstance(value, str) or (self.whole and not float(value).is_integer()):  # infinity is no integer, either
            return False
        return float(self.low or 0) <= value <= float(self.high or 0)

    def at(self, share: float) -> Value:
        """Return the value at a share, 0 to 1, of the way from low to high (on its scale), or through the choice."""
        if self.choice is not None:
            return self.choice[min(int(share * len(self.choice)), len(self.choice) - 1)]
        low, high = float(self.low or 0), float(self.high or 0)
        value = low * (high / low) ** share if self.log else low + (high - low) * share
        return round(value) if self.whole else min(max(value, low), high)

    def share(self, value: Value) -> float:
        """Return a value's share, 0 to 1, of the way along the axis; the inverse of `at`."""
        if self.choice is not None:
            return (self.choice.index(value) + 0.5) / len(self.choice)
        low, high, here = (math.log(v) if self.log else v for v in map(float, (*self.ends(), value)))
        return (here - low) / (high - low)

    def points(self, count: int) -> list[Value]:
        """Return all values of a choice, or `count` values evenly spread from low to high (on its scale)."""
        if self.choice is not None:
            return list(self.choice)
        low, high = float(self.low or 0), float(self.high or 0)
        if self.whole and high - low < count:
            return list(range(int(low), int(high) + 1))
        shares = [i / (count - 1) for i in range(count)] if count > 1 else [0.5]
        return list(dict.fromkeys(self.at(share) for share in shares))


def check(space: dict[str, Axis | None]) -> dict[str, Axis]:
    """Return the space without nulls. Raises ValueError naming a parameter that is unknown, empty or impossible."""
    kept = {name: axis for name, axis in space.items() if axis is not None}
    if not kept:
        raise ValueError("no parameter to search")
    for name, axis in kept.items():
        if problem := _problem(name, axis):
            raise ValueError(f"{name}: {problem}")
    return kept


def check_names(values: dict[str, Value | None]) -> dict[str, Value]:
    """Return the values that are not null. Raises ValueError for a parameter that cannot be searched."""
    kept = {name: value for name, value in values.items() if value is not None}
    for name in kept:
        if problem := _unknown(name):
            raise ValueError(f"{name}: {problem}")
    return kept


def _unknown(name: str) -> str | None:
    if name in ALIASES:
        return f"call it {ALIASES[name]}, as train.params does"
    if name in DECIDED:
        return f"cannot be searched, {DECIDED[name]} decides it"
    if name not in NUMBERS and name not in WORDS:
        near = get_close_matches(name, [*NUMBERS, *WORDS], n=1)
        known = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted([*NUMBERS, *WORDS]))}"
        return f"XGBoost has no such parameter that can be searched; {known}"
    return None


def _problem(name: str, axis: Axis) -> str | None:
    if problem := _unknown(name):
        return problem
    if name in WORDS:
        wrong = [w for w in axis.choice or () if w not in WORDS[name]]
        return f"expected {{choice: [{', '.join(WORDS[name])}]}}" if wrong or axis.choice is None else None
    if axis.choice is None and not (axis.low or 0) < (axis.high or 0):
        return f"low must be below high, got [{axis.low}, {axis.high}]"
    if axis.log and not (axis.low or 0) > 0:
        return f"low must be above 0 on a log scale, got {axis.low}"
    least, most, includes_least = NUMBERS[name]
    kind = int if isinstance(least, int) else (int, float)
    for value in axis.ends():
        if not _is_number(value) or not isinstance(value, kind):
            return f"expected {'whole numbers' if kind is int else 'numbers'}, got {value!r}"
        if not (least < value <= most or (includes_least and value == least)) or math.isinf(value):
            return f"{value} is outside of what XGBoost takes, {'[' if includes_least else ']'}{least:g}, {most:g}]"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
