"""What a rehearsal found, as JSON values: the nights, and for each setting of the gates what it would have promoted.

There is no clock in it, so a rehearsal that was killed and started again has the same result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from flows.rehearse import promotions
from flows.rehearse.promotions import ALL, EVERY, FIRST, Decision, Night
from tasks.core.sections import GatesConfig
from tasks.domain.metrics import name_of
from tasks.domain.targets import TARGETS


def result_of(nights: Sequence[Night], variants: Mapping[str, GatesConfig]) -> dict[str, Any]:
    """Compare the settings of the gates on the nights' scores."""
    decided = {name: promotions.decisions(nights, gates) for name, gates in variants.items()}
    decided |= {EVERY: promotions.every_model(nights), FIRST: promotions.first_model(nights)}
    target = TARGETS[nights[0].target]
    return {
        "target": target.name,
        "metric": nights[0].metric,
        "metric_name": name_of(target, nights[0].metric),
        "nights": [_night(night) for night in nights],
        "gates": {name: _of_gates(nights, decisions) for name, decisions in decided.items()},
    }


def _night(night: Night) -> dict[str, Any]:
    return {
        "night": night.number,
        "until": night.until,
        "arrived": night.arrived,
        "reviews": night.reviews,
        "test_rows": night.rows,
        "loss": night.losses[night.number],
        "mean": night.mean,
        "linear": night.linear,
        "model": night.model,
    }


def _of_gates(nights: Sequence[Night], decisions: Sequence[Decision]) -> dict[str, Any]:
    months = [asdict(month) | {"champions": list(month.champions)} for month in promotions.months(nights, decisions)]
    return {
        "promotions": sum(decision.promoted for decision in decisions),
        "rows": next((month["rows"] for month in months if month["month"] == ALL), 0),
        "loss": next((month["loss"] for month in months if month["month"] == ALL), None),
        "months": [month for month in months if month["month"] != ALL],
        "decisions": [asdict(decision) | {"failed": list(decision.failed)} for decision in decisions],
    }


def tables(result: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the decisions and the months of all settings as rows of two tables."""
    nights = {night["night"]: night for night in result["nights"]}
    decided, months = [], []
    for name, found in result["gates"].items():
        for decision in found["decisions"]:
            night = nights[decision["night"]]
            about = {k: night[k] for k in ("until", "arrived", "test_rows", "loss")}
            decided.append({"gates": name, **decision, **about, "failed": "; ".join(decision["failed"])})
        months += [
            {"gates": name, **month, "champions": ", ".join(map(str, month["champions"]))} for month in found["months"]
        ]
    return decided, months
