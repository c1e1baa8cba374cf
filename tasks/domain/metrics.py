"""Measure predictions: a target's measures with bootstrap intervals, and calibration.

This uses numpy only and reads no file, so tests can compare it with scikit-learn. Labels are (n,) numbers as
`tasks.domain.targets` makes them. A prediction is (n,) numbers or probabilities, or, for a target of several classes,
(n, classes) probabilities; (n,) is then the expected number (stars), from which only a few measures can be computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tasks.domain.losses import Array, losses, overall
from tasks.domain.targets import Target

Measures = dict[str, dict[str, float | None]]

NAMES = {"rmse": "RMSE", "mae": "MAE", "logloss": "log loss", "mlogloss": "log loss", "auc": "AUC"}
NAMES |= {"accuracy": "accuracy"}
MODELS = {"tuned": "tuned", "baseline": "untuned", "linear": "linear baseline", "mean": "predict-the-mean"}
HIGHER_IS_BETTER = frozenset({"auc", "accuracy"})
LEVEL = 0.95
BLOCKS = 20_000  # this many blocks add a random error of 0.5% to an interval's width; 400 samples add 4%
DRAWS = 50  # samples at a time: 8 MB
Z = 1.959963984540054  # of a 95% interval


def expected(target: Target, prediction: Array) -> Array:
    """Return (n,) predictions in the target's unit: for classes the expected stars, 1 to `classes`."""
    if prediction.ndim == 1:
        return prediction
    stars: Array = prediction @ np.arange(1, target.classes + 1, dtype=prediction.dtype)
    return stars


def name_of(target: Target, measure: str) -> str:
    """Return a measure's name with its unit, for pages."""
    unit = "nats" if "logloss" in measure else target.unit if measure in ("rmse", "mae") else ""
    return f"{NAMES[measure]} ({unit})" if unit else NAMES[measure]


def measure(target: Target, label: Array, prediction: Array, resamples: int = 400, seed: int = 7) -> Measures:
    """Compute the target's measures that this prediction allows: {measure: {"value", "low", "high"}}.

    low and high are the 2.5% and 97.5% quantiles of the measure over `resamples` bootstrap samples (`bootstrap_sums`).
    AUC is exact, ties by midranks; its interval is that of its linear part (`_placements`). It is None if all labels
    are of one class. Raises ValueError for no rows or different lengths.
    """
    n = len(label)
    if not n or n != len(prediction):
        raise ValueError(f"{n} labels, {len(prediction)} predictions: expected equal numbers, at least one")
    one = np.ones(n)
    terms = {name: [(term, one)] for name, term in _means(target, label, prediction).items()}
    if "auc" in target.measures:
        terms["auc"] = _placements(label, prediction)
    columns = [column for pairs in terms.values() for pair in pairs for column in pair]
    with np.errstate(invalid="ignore", divide="ignore"):  # samples that lack one class are left out below
        drawn = bootstrap_sums(columns, resamples, seed)
        shares = drawn[:, 0::2] / drawn[:, 1::2]
        means = [column.sum() / weight.sum() for column, weight in zip(columns[0::2], columns[1::2], strict=True)]
    measures, at = {}, 0
    for name, pairs in terms.items():
        value, draws = means[at], shares[:, at]
        if name == "auc":
            value, draws = (value + means[at + 1]) / 2, (draws + shares[:, at + 1] - value).clip(0, 1)
        measures[name] = _interval(overall(name, value), np.sqrt(draws) if name == "rmse" else draws)
        at += len(pairs)
    return {name: measures[name] for name in target.measures if name in measures}


def bootstrap_sums(columns: Sequence[Array], resamples: int, seed: int = 7) -> Array:
    """Return (resamples, k) sums of k columns over bootstrap samples of their n rows, the same samples for all columns.

    A sample takes each row a Poisson(1) number of times, the limit of drawing n of n with replacement; beyond BLOCKS
    rows it draws random blocks of rows, whose sums have the same spread.
    """
    random = np.random.default_rng(seed)
    block = random.permutation(len(columns[0])) % BLOCKS
    sums = np.stack([np.bincount(block, column) for column in columns], axis=1)
    drawn = [random.poisson(1, (DRAWS, len(sums))) @ sums for _ in range(0, resamples, DRAWS)]
    return np.concatenate(drawn)[:resamples]


def _means(target: Target, label: Array, prediction: Array) -> dict[str, Array]:
    """Return {measure: (n,) float64 terms} for the measures that are means, or roots of means, over the rows."""
    y, p = label.astype(np.float64), prediction.astype(np.float64)
    if target.metric == "logloss":
        return {"logloss": losses(target, label, prediction), "accuracy": ((p > 0.5) == (y > 0.5)).astype(np.float64)}
    if target.metric == "mlogloss":
        squares = {"rmse": np.square(expected(target, p) - (y + 1))}
        if p.ndim == 1:
            return squares
        right = p.argmax(axis=1) == y
        return {"mlogloss": losses(target, label, prediction), "accuracy": right.astype(np.float64), **squares}
    return {"rmse": np.square(p - y), "mae": np.abs(p - y)}


def _placements(label: Array, prediction: Array) -> list[tuple[Array, Array]]:
    """Return (n,) terms and weights for the positives, then for the negatives; each weighted mean is the AUC.

    A positive's placement is the share of negatives ranked below it, a negative's the share of positives ranked above
    it, ties counted half. The AUC varies with both means (DeLong and others, 1988; by midranks: Sun and Xu, 2014).
    """
    positive = label > 0.5
    ahead, behind = positive.astype(np.float64), (~positive).astype(np.float64)
    place = np.zeros(len(label))
    if positive.any() and not positive.all():
        ranks = _midranks(prediction)
        place[positive] = (ranks[positive] - _midranks(prediction[positive])) / behind.sum()
        place[~positive] = 1 - (ranks[~positive] - _midranks(prediction[~positive])) / ahead.sum()
    return [(place * ahead, ahead), (place * behind, behind)]


def _midranks(values: Array) -> Array:
    """Return (n,) ranks from 1; equal values share their mean rank."""
    _, home, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[home]


def _interval(value: float, draws: Array) -> dict[str, float | None]:
    """Return the value and its interval; None where undefined (JSON has no NaN)."""
    finite = draws[np.isfinite(draws)]
    if not np.isfinite(value) or not len(finite):
        return {"value": value if np.isfinite(value) else None, "low": None, "high": None}
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": value, "low": float(low), "high": float(high)}


def calibration(target: Target, label: Array, prediction: Array, bins: int = 10) -> list[dict[str, float]]:
    """Compare predictions and labels in bins of about equally many rows: rows, prediction, label, low, high.

    Both are means; low and high are the 95% interval of the label's, by Wilson for a share, else by the normal
    distribution. For several classes the prediction is the probability of the likeliest class, and the label whether it
    was right. Rows with equal predictions stay in one bin, so there may be fewer bins.
    """
    y, p = label.astype(np.float64), prediction.astype(np.float64)
    if p.ndim == 2:
        y, p = (p.argmax(axis=1) == y).astype(np.float64), p.max(axis=1)
    edges = np.unique(np.quantile(p, np.arange(1, bins) / bins, method="lower"))
    home = np.searchsorted(edges, p, side="left")
    rows_of_bins = []
    for i in np.unique(home):
        inside = home == i
        rows, mean, spread = int(inside.sum()), float(y[inside].mean()), float(y[inside].std())
        middle, half = mean, Z * spread / rows**0.5
        if not target.is_regression:
            middle = (mean + Z**2 / (2 * rows)) / (1 + Z**2 / rows)
            half = Z / (1 + Z**2 / rows) * (mean * (1 - mean) / rows + Z**2 / (4 * rows**2)) ** 0.5
        rows_of_bins.append(
            {"rows": rows, "prediction": float(p[inside].mean()), "label": mean}
            | {"low": middle - half, "high": middle + half}
        )
    return rows_of_bins


def calibration_error(bins: list[dict[str, float]]) -> float:
    """Return the expected calibration error: the distance of prediction and label in a bin, averaged over the rows."""
    rows = sum(b["rows"] for b in bins)
    return sum(b["rows"] * abs(b["prediction"] - b["label"]) for b in bins) / rows


def by_measure(measures: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> dict[str, dict[str, float]]:
    """Regroup {model: {measure: {"value"}}} as {measure: {model: value}}, without unknown values."""
    values: dict[str, dict[str, float]] = {}
    for model, of_model in measures.items():
        for name, numbers in of_model.items():
            if (value := numbers["value"]) is not None:
                values.setdefault(name, {})[model] = value
    return {name: values[name] for name in NAMES if name in values}  # facts are in alphabetical order
