"""Losses, measures, intervals and calibration, against scikit-learn and against the plain definition."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as peer

from tasks.domain import metrics
from tasks.domain.losses import losses, overall
from tasks.domain.targets import TARGETS

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.integers(2, 60)


def probabilities(rows: int, seed: int, classes: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and predictions that correlate with them, rounded so that there are ties."""
    rng = np.random.default_rng(seed)
    if classes > 1:
        p = rng.dirichlet(np.ones(classes), rows).round(2) + 0.01
        p /= p.sum(axis=1, keepdims=True)
        return np.array([rng.choice(classes, p=row) for row in p]).astype(np.float32), p
    p = rng.random(rows).round(1)
    return (rng.random(rows) < p).astype(np.float32), p


def values(target: str, label: Any, prediction: Any) -> dict[str, float | None]:
    found = metrics.measure(TARGETS[target], label, prediction, resamples=100)
    assert list(found) == [m for m in TARGETS[target].measures if m in found]
    return {name: numbers["value"] for name, numbers in found.items()}


@given(rows=SIZES, seed=SEEDS)
def test_measures_of_a_regression_are_those_of_scikit_learn(rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    label, prediction = rng.integers(1, 6, rows).astype(np.float32), rng.normal(3, 2, rows).astype(np.float32)
    assert values("rating", label, prediction) == pytest.approx(
        {
            "rmse": peer.root_mean_squared_error(label, prediction),
            "mae": peer.mean_absolute_error(label, prediction),
        },
        rel=1e-5,
    )


@given(rows=SIZES, seed=SEEDS)
def test_measures_of_a_probability_are_those_of_scikit_learn_also_with_ties(rows: int, seed: int) -> None:
    label, p = probabilities(rows, seed)
    found = values("positive", label, p)
    assert found["logloss"] == pytest.approx(peer.log_loss(label, p.clip(1e-15, 1 - 1e-15), labels=[0, 1]))
    assert found["accuracy"] == pytest.approx(peer.accuracy_score(label, p > 0.5))
    if len(set(label.tolist())) == 2:
        assert found["auc"] == pytest.approx(peer.roc_auc_score(label, p))
    else:
        assert found["auc"] is None


@given(rows=SIZES, seed=SEEDS)
def test_measures_of_classes_are_those_of_scikit_learn(rows: int, seed: int) -> None:
    label, p = probabilities(rows, seed, classes=5)
    assert values("stars", label, p) == pytest.approx(
        {
            "mlogloss": peer.log_loss(label, p, labels=range(5)),
            "accuracy": peer.accuracy_score(label, p.argmax(axis=1)),
            "rmse": peer.root_mean_squared_error(label + 1, p @ np.arange(1, 6)),
        }
    )


def test_of_expected_stars_alone_no_probability_is_judged() -> None:
    assert values("stars", np.array([0, 4], np.float32), np.array([1, 3], np.float32)) == {"rmse": 2**0.5}
    with pytest.raises(ValueError, match="a probability for each class"):
        losses(TARGETS["stars"], np.zeros(2), np.zeros(2))


@pytest.mark.parametrize("target", TARGETS)
def test_the_metric_is_the_mean_of_the_rows_losses(target: str) -> None:
    t = TARGETS[target]
    label, p = probabilities(50, 3, t.classes)
    mean = losses(t, label, p).mean()
    assert values(target, label, p)[t.metric] == pytest.approx(overall(t.metric, mean))


def test_a_certain_prediction_that_is_wrong_costs_much_and_not_infinitely_much() -> None:
    for target, label, p in (
        ("positive", [1.0], [0.0]),
        ("positive", [0.0], [1.0]),
        ("stars", [2.0], [[1, 0, 0, 0, 0]]),
    ):
        (loss,) = losses(TARGETS[target], np.array(label), np.array(p, np.float32))
        assert 30 < loss < 40


@pytest.mark.parametrize("target", ["rating", "positive", "stars"])
def test_intervals_are_those_of_drawing_rows_with_replacement(target: str) -> None:
    t = TARGETS[target]
    label, p = probabilities(400, 1, t.classes)
    found = metrics.measure(t, label, p, resamples=2000)
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, 400, 400) for _ in range(300)]
    again = [values_alone(target, label[rows], p[rows]) for rows in draws]
    for name, numbers in found.items():
        low, high = np.quantile([one[name] for one in again], [0.025, 0.975])
        assert numbers["low"] < numbers["value"] < numbers["high"]
        width = high - low
        assert numbers["low"] == pytest.approx(low, abs=0.15 * width), name
        assert numbers["high"] == pytest.approx(high, abs=0.15 * width), name


def values_alone(target: str, label: np.ndarray, p: np.ndarray) -> dict[str, float]:
    if target == "rating":
        return {"rmse": peer.root_mean_squared_error(label, p), "mae": peer.mean_absolute_error(label, p)}
    if target == "positive":
        found = {"auc": peer.roc_auc_score(label, p), "accuracy": float(((p > 0.5) == label).mean())}
        return found | {"logloss": peer.log_loss(label, p.clip(1e-15, 1 - 1e-15))}
    rmse = peer.root_mean_squared_error(label + 1, p @ np.arange(1, 6))
    accuracy = float((p.argmax(axis=1) == label).mean())
    return {"mlogloss": peer.log_loss(label, p, labels=range(5)), "accuracy": accuracy, "rmse": rmse}


def test_blocks_of_rows_give_the_interval_that_rows_give(monkeypatch: pytest.MonkeyPatch) -> None:
    label, p = probabilities(20_000, 2)
    by_row, by_block = {}, {}
    for blocks, found in ((20_000, by_row), (2_000, by_block)):
        monkeypatch.setattr(metrics, "BLOCKS", blocks)
        found |= metrics.measure(TARGETS["positive"], label, p, resamples=500)
    for name, numbers in by_row.items():
        width = numbers["high"] - numbers["low"]
        assert by_block[name]["value"] == numbers["value"]
        assert by_block[name]["high"] - by_block[name]["low"] == pytest.approx(width, rel=0.15), name


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    label, p = probabilities(100, 4)
    first, again, other = (metrics.measure(TARGETS["positive"], label, p, 100, seed) for seed in (1, 1, 2))
    assert first == again
    assert first["auc"]["low"] != other["auc"]["low"]


def test_a_single_row_has_a_value_and_none_has_an_error() -> None:
    found = metrics.measure(TARGETS["positive"], np.array([1.0]), np.array([0.9]))
    assert found["logloss"]["value"] == pytest.approx(-np.log(0.9))
    assert found["auc"] == {"value": None, "low": None, "high": None}
    for label, p in ((np.empty(0), np.empty(0)), (np.ones(2), np.ones(3))):
        with pytest.raises(ValueError, match="expected equal numbers, at least one"):
            metrics.measure(TARGETS["rating"], label, p)


@given(rows=st.integers(1, 300), seed=SEEDS, target=st.sampled_from(sorted(TARGETS)))
def test_calibration_bins_hold_every_row_once_and_never_part_equal_predictions(
    rows: int, seed: int, target: str
) -> None:
    t = TARGETS[target]
    label, p = probabilities(rows, seed, t.classes)
    bins = metrics.calibration(t, label, p)
    said = p if p.ndim == 1 else p.max(axis=1)
    came = label if p.ndim == 1 else p.argmax(axis=1) == label
    assert 1 <= len(bins) <= 10
    assert sum(b["rows"] for b in bins) == rows
    assert sum(b["rows"] * b["prediction"] for b in bins) == pytest.approx(said.sum())
    assert sum(b["rows"] * b["label"] for b in bins) == pytest.approx(came.sum())
    means = [b["prediction"] for b in bins]
    assert all(a < b for a, b in itertools.pairwise(means))
    assert all(b["low"] - 1e-9 <= b["label"] <= b["high"] + 1e-9 for b in bins)


def test_bins_of_different_predictions_are_of_equal_mass() -> None:
    p = np.random.default_rng(0).random(1000)
    assert [b["rows"] for b in metrics.calibration(TARGETS["positive"], p > 0.5, p)] == pytest.approx([100] * 10, abs=1)


def test_calibration_error_is_near_zero_for_true_probabilities_and_large_for_false_ones() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    label = (rng.random(20_000) < p).astype(float)
    for said, low, high in ((p, 0.0, 0.02), (np.full(20_000, 0.9), 0.38, 0.42)):
        bins = metrics.calibration(TARGETS["positive"], label, said)
        assert low <= metrics.calibration_error(bins) <= high


def test_measures_turned_round_leave_out_what_is_not_known() -> None:
    measures = {"tuned": {"rmse": {"value": 1.0}, "auc": {"value": None}}, "mean": {"rmse": {"value": 2.0}}}
    assert metrics.by_measure(measures) == {"rmse": {"tuned": 1.0, "mean": 2.0}}
