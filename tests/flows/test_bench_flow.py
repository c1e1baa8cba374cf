"""What the weekly bench records of a case."""

from __future__ import annotations

import pytest

from flows.bench import _check, _summary, metrics_of
from tasks.core.errors import SettingsError

RESULT = {
    "case": "etl",
    "ours": {"median_s": 2.5, "min_s": 2.0, "max_s": 3, "runs": 3, "peak_rss_bytes": 10, "note": "x", "exact": True},
    "peers": {"polars": {"median_s": 1.25, "runs": 3}},
    "ratio": {"polars": 2.0},
    "machine": {"load_average": 0.12},
}


def test_every_number_of_a_case_becomes_a_metric_of_the_same_name_every_week() -> None:
    assert metrics_of(RESULT) == {
        "ours_median_s": 2.5,
        "ours_min_s": 2.0,
        "ours_max_s": 3.0,
        "ours_runs": 3.0,
        "ours_peak_rss_bytes": 10.0,
        "polars_median_s": 1.25,
        "polars_runs": 3.0,
        "ratio_polars": 2.0,
        "load_average": 0.12,
    }
    assert _summary(RESULT) == "etl: 2.5 s, 2 of polars's time"


def test_a_case_that_is_none_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(SettingsError, match="no bench case 'elt'"):
        _check(["etl", "elt"], {})
    with pytest.raises(SettingsError, match="not measured: train"):
        _check(["etl"], {"train": 5})
