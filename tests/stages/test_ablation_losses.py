"""What a group of features is worth, without Ray: models that lack a column, and intervals of differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.settings import load_settings
from tasks.stages.evaluate.ablation import compare, losses_of

CONFIG = load_settings(overrides=["train.rounds=20"]).train


def slice_of(path: Path, n: int, seed: int, target: str) -> Path:
    """Labels that follow `tells`; `noise` says nothing."""
    random = np.random.default_rng(seed)
    tells, noise = random.normal(size=(2, n)).astype(np.float32)
    label = {"rating": 3 + tells, "positive": tells > 0, "stars": np.digitize(tells, [-1, -0.3, 0.3, 1])}[target]
    pq.write_table(pa.table({"tells": tells, "noise": noise, "label": pa.array(label.astype(np.float32))}), path)
    return path


@pytest.mark.parametrize("target", ["rating", "positive", "stars"])
def test_a_feature_that_tells_is_missed_and_noise_is_not(tmp_path: Path, target: str) -> None:
    files = [[slice_of(tmp_path / f"{name}.parquet", n, n, target)] for name, n in (("train", 900), ("valid", 400))]
    told = [losses_of(*files, features, target, CONFIG) for features in (["tells", "noise"], ["noise"], ["tells"])]
    assert {len(t) for t in told} == {400}
    values, (without_tells, without_noise) = compare("rmse" if target == "rating" else "logloss", *told)
    assert values[1] > 1.3 * values[0]
    assert without_tells[0] > 0
    assert without_noise[0] < without_tells[0] / 5


def test_constraints_keep_their_features_where_others_are_left_out(tmp_path: Path) -> None:
    files = [[slice_of(tmp_path / f"{name}.parquet", n, n, "rating")] for name, n in (("train", 900), ("valid", 400))]
    falls = load_settings(overrides=["train.rounds=20", 'train.params.monotone_constraints="(0,-1)"']).train
    free, held = (losses_of(*files, ["tells"], "rating", config, ["noise", "tells"]) for config in (CONFIG, falls))
    assert held.mean() > 2 * free.mean()


def paired(n: int, seed: int) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    both = random.exponential(size=n)
    return both, both + random.normal(0.02, 0.3, n)


def test_an_interval_is_that_of_the_mean_difference_whatever_the_losses_have_in_common() -> None:
    first, second = paired(50_000, 1)  # more than are drawn one by one
    values, [(low, high)] = compare("logloss", first, second)
    difference = second - first
    half = 1.96 * difference.std() / 50_000**0.5
    assert values == pytest.approx([first.mean(), second.mean()])
    assert (low, high) == pytest.approx((difference.mean() - half, difference.mean() + half), abs=half / 5)


def test_of_squared_errors_the_difference_is_one_of_roots() -> None:
    values, [(low, high)] = compare("rmse", np.full(200, 4.0), np.full(200, 9.0))
    assert (values, low, high) == ([2, 3], pytest.approx(1), pytest.approx(1))
