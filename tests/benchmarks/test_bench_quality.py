"""The bench of model quality: peers on made-up rows, and the measures computed from the sides' results."""

from __future__ import annotations

import datetime as dt
import random
from pathlib import Path

import polars as pl
import pytest

from benchmarks.cases import quality
from benchmarks.harness import Timed

WORDS = {1: "awful waste", 2: "poor weak", 3: "fine average", 4: "good solid", 5: "superb lovely"}
DAY = dt.datetime(2015, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def job(tmp_path: Path) -> quality.Job:
    """200 train, 40 validation and 40 test rows; the words determine the stars."""
    rng = random.Random(1)
    rows = []
    for i in range(280):
        stars = rng.randint(1, 5)
        noise = " ".join(f"word{rng.randrange(30)}" for _ in range(3))
        row = {
            "review_id": f"R{i}",
            "user_id": f"u{i % 7}",
            "item_id": f"i{i % 5}",
            "rating": float(stars),
            "title": "",
            "text": f"{WORDS[stars]} {noise}",
            "timestamp": DAY + dt.timedelta(days=i),
            "verified": True,
            "category": None,
            "slice": (i >= 200) + (i >= 240),
        }
        rows.append(row)
    schema = {"category": pl.String, "rating": pl.Float32}
    pl.DataFrame(rows, schema_overrides=schema).write_parquet(tmp_path / "rows.parquet")
    return quality.Job(tmp_path, "canonical", tmp_path, tmp_path / "rows.parquet")


def test_peers_learn_from_the_words_and_see_the_same_rows(job: quality.Job) -> None:
    ridge, logreg = quality.ridge(job).output, quality.logreg(job).output
    assert ridge["rmse"][0] < 0.6  # the mean's is 1.4
    assert logreg["auc"][0] > 0.95
    assert ridge["rows"] == logreg["rows"] == [200, 40, 40]
    assert "200" in quality.check(job, {"rows": [200, 40, 40]}, {"ridge": ridge, "logreg": logreg})
    with pytest.raises(AssertionError, match="not the same rows"):
        quality.check(job, {"rows": [200, 40, 39]}, {"ridge": ridge})


def test_a_side_is_computed_once_and_keeps_its_time(job: quality.Job) -> None:
    calls = []
    first = job.once("side", lambda _job: {"calls": calls.append(1)})
    assert job.once("side", lambda _job: {"calls": calls.append(1)}) is first
    assert len(calls) == 1


def test_ratio_and_gain_are_of_the_means_over_seeds(job: quality.Job) -> None:
    runs = {
        "ours": [Timed(1.0, {"rmse": [0.5, 0.6, 0.7], "auc": [0.9, 0.9, 0.96], "rows": []})],
        "ridge": [Timed(1.0, {"rmse": [0.8], "rows": []})],
        "logreg": [Timed(1.0, {"auc": [0.9], "rows": []})],
    }
    found = quality.details(job, runs)["ours"]
    assert found["rmse_ratio"] == {"ridge": 0.75}
    assert found["auc_gain"] == {"logreg": 0.02}
    assert found["by_seed"]["rmse"] == [0.5, 0.6, 0.7]
