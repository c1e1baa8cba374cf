"""The nights that were scored, as the report and their own page show them."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

from flows.run.watched_nights import Night
from tasks.stages.report.nights_section import drawing, nights_page, watched_nights
from tasks.stages.watch.findings import Findings

HOSTILE = "<script>alert(1)</script>"
WARNED = {"expectation": "expected loss", "value": "1.3000", "limit": "1.1, 10% above the test slice's 1.0"}


def night(day: int, **found: Any) -> dict[str, Any]:
    known = {"metric": "rmse", "reference_loss": 1.0, "expected_loss": 1.05, "prediction_psi": 0.02, **found}
    about = Night(f"n{day}", f"r{day}", f"2026-03-{day:02}T06:30:00+00:00", model=HOSTILE, version="3", rows=1234)
    more = {"seconds": {"read-new": 1.0, HOSTILE: 2.0}, "drifted": {"prediction": 0.02, HOSTILE: 0.4}}
    return {**asdict(about), **more, "found": {**Findings().as_json(), **known}}


def test_the_page_shows_losses_drift_seconds_and_champions_and_runs_nothing() -> None:
    nights = [night(12, warnings=[WARNED]), night(11, realised_loss=1.2, realised_rows=617), night(10)]
    promotion = {"when": "2026-03-10T05:00:00+00:00", "said": HOSTILE, "who": HOSTILE}
    page = nights_page(nights, [promotion], HOSTILE)
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert re.search(r"1,234.*1\.0500.*1\.2000.*50%", page)
    assert "▲ The latest night: expected loss 1.3000" in page
    assert page.count("▲ expected<") == 1
    assert len(re.findall("<polyline", page)) == 5
    assert len(re.findall("<circle", page)) == 3 + 3 + 1 + 3 + 3


def test_one_night_that_could_not_be_watched_makes_a_page() -> None:
    told = night(10, expected_loss=None, reference_loss=None, prediction_psi=None, told=["no reference"], metric="")
    page = nights_page([{**told, "drifted": {}}], [], "Nights")
    assert "The latest night: no reference." in page
    assert "No change of the champion is known" in page
    assert "<polyline" not in page


def test_a_line_is_broken_where_a_night_has_no_value_and_ticks_are_round() -> None:
    shown = drawing({"a": [1.0, None, 1.5, 2.0]}, ["1", "2", "3", "4"])
    assert shown is not None
    assert [len(path.split()) for path in shown["lines"][0]["paths"]] == [1, 2]
    assert [tick["says"] for tick in shown["ticks"]] == ["0.5", "1", "1.5", "2", "2.5"]
    flat = drawing({"a": [3.0, 3.0]}, ["1", "2"])
    assert flat is not None
    assert 3.0 in [float(tick["says"]) for tick in flat["ticks"]]
    assert drawing({"a": [None]}, ["1"]) is None
    assert watched_nights([night(1)], [])["metric"] == "RMSE"
