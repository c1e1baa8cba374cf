"""The nights that were scored and watched, as a section of the report and as a page of its own.

Lines are drawn as SVG in the page itself: it needs neither scripts nor pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from tasks.domain.metrics import NAMES
from tasks.stages.report.templates import template

PAGE, SECTION = "nights.html.j2", "report_nights.html.j2"
WIDTH, HEIGHT = 520.0, 220.0  # of a drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 12.0, 30.0  # its margins
TICKS = 4  # of an axis, about
LOSSES = (("reference_loss", "test slice"), ("expected_loss", "expected"), ("realised_loss", "realised"))


def nights_page(nights: Sequence[Mapping[str, Any]], promotions: Sequence[Mapping[str, str]], title: str) -> str:
    """Return a page with what `watched_nights` makes."""
    return template(PAGE).render(title=title, scored=watched_nights(nights, promotions))


def watched_nights(nights: Sequence[Mapping[str, Any]], promotions: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return what the template shows.

    nights: of `flows.run.watched_nights.Night` as JSON values, the latest first. promotions: `when`, `said` and `who`
    of each change of the champion, the latest first.
    """
    oldest_first = list(reversed(nights))
    days = [str(night["started"])[:10] for night in oldest_first]
    metrics = {str(night["found"].get("metric")) for night in nights if night["found"].get("metric")}
    losses = {says: [night["found"].get(name) for night in oldest_first] for name, says in LOSSES}
    drift = {"prediction": [night["found"].get("prediction_psi") for night in oldest_first]}
    drift["furthest column"] = [max(night["drifted"].values(), default=None) for night in oldest_first]
    return {
        "nights": nights,
        "promotions": promotions,
        "metric": ", ".join(NAMES.get(name, name) for name in sorted(metrics)) or "loss",
        "stages": list(dict.fromkeys(stage for night in nights for stage in night["seconds"])),
        "losses": drawing(losses, days),
        "drift": drawing(drift, days, zero=True),
    }


def drawing(
    series: Mapping[str, Sequence[float | None]], days: Sequence[str], *, zero: bool = False
) -> dict[str, Any] | None:
    """Place lines in a drawing: `lines` of name, `paths` (a text for each run of known values) and `dots`; `ticks` of
    the vertical axis, and the first and last day. zero: whether the axis begins there. None without any value."""
    values = [value for line in series.values() for value in line if value is not None]
    if not values:
        return None
    low, high = (0.0 if zero else min(values)), max(values)
    step = _step((high - low) or abs(high) * 0.1 or 1.0)
    low, high = step * math.floor(low / step - 0.1 * (not zero)), step * math.ceil(high / step + 0.1)

    def x(i: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (i / (len(days) - 1) if len(days) > 1 else 0.5)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low))

    lines = []
    for name, line in series.items():
        dots = [(i, f"{x(i):.1f}", f"{y(v):.1f}", f"{v:.4g}") for i, v in enumerate(line) if v is not None]
        runs = [[dot for _, dot in run] for _, run in groupby(enumerate(dots), lambda pair: pair[1][0] - pair[0])]
        paths = [" ".join(f"{px},{py}" for _, px, py, _ in run) for run in runs]
        shown = [{"x": px, "y": py, "says": f"{days[i]}: {name} {says}"} for i, px, py, says in dots]
        lines.append({"name": name, "paths": paths, "dots": shown})
    marks = [low + step * i for i in range(round((high - low) / step) + 1)]
    ticks = [{"y": f"{y(mark):.1f}", "says": f"{mark:,.6g}"} for mark in marks]
    return {"lines": lines, "ticks": ticks, "first": days[0], "last": days[-1], "width": WIDTH, "height": HEIGHT}


def _step(span: float) -> float:
    """Return a round step that divides a span into about TICKS."""
    size = 10.0 ** math.floor(math.log10(span / TICKS))
    return next(factor * size for factor in (1.0, 2.0, 5.0, 10.0) if factor * size >= span / TICKS)
