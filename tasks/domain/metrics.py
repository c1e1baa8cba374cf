"""How good predictions are: the measures of a target with bootstrap intervals, calibration.

numpy alone, and no file is read: what is here can be checked against scikit-learn row by row. Labels are (n,) numbers
as `tasks.domain.targets` makes them. A prediction is (n,) numbers or probabilities, or, for a target of several
classes,
(n, classes) probabilities; (n,) is then the number expected (stars), of which a few measures alone can be told.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tasks.domain.losses import Array, losses, overall
from tasks.domain.targets import Target

Measures = dict[str, dict[str, float | None]]

NAMES = {"rmse": "RMSE", "mae": "MAE", "logloss": "log loss", "mlogloss": "log loss", "auc": "AUC"}
NAMES |= {"accuracy": "accuracy"}
MODELS = {"tuned": "tuned", "baseline": "untuned", "linear": "linear baseline", "mean": "predict-the-mean"}
HIGHER_IS_BETTER = frozenset({"auc", "accuracy"})
LEVEL = 0.95
BLOCKS = 20_000  # with so many, chance moves an interval's width by 0.5%, 400 samples by 4%
DRAWS = 50  # samples at a time: 8 MB
Z = 1.959963984540054  # of a 95% interval


def expected(target: Target, prediction: Array) -> Array:
    """(n,) predictions in the target's unit: for classes the stars expected, 1 to `classes`."""
    if prediction.ndim == 1:
        return prediction
    stars: Array = prediction @ np.arange(1, target.classes + 1, dtype=prediction.dtype)
    return stars


def name_of(target: Target, measure: str) -> str:
    """A measure's name with its unit, for pages."""
    unit = "nats" if "logloss" in measure else target.unit if measure in ("rmse", "mae") else ""
    return f"{NAMES[measure]} ({unit})" if unit else NAMES[measure]


def measure(target: Target, label: Array, prediction: Array, resamples: int = 400, seed: int = 7) -> Measures:
    """All measures of the target that can be told of this prediction: {measure: {"value", "low", "high"}}.

    low and high are the 2.5% and 97.5% quantiles of the measure over `resamples` bootstrap samples. A sample takes each
    row a Poisson(1) number of times, the limit of drawing n of n with replacement; beyond BLOCKS rows it takes blocks
    of rows that were dealt out at random, whose sums spread as those of the rows do. AUC is exact, ties by midranks;
    its interval is that of its linear part (`_placements`). It is None where the labels are of one class. Raises
    ValueError for no rows or for lengths that differ.
    """
    n = len(label)
    if not n or n != len(prediction):
        raise ValueError(f"{n} labels, {len(prediction)} predictions: expected as many, one at least")
    one = np.ones(n)
    terms = {name: [(term, one)] for name, term in _means(target, label, prediction).items()}
    if "auc" in target.measures:
        terms["auc"] = _placements(label, prediction)
    columns = [column for pairs in terms.values() for pair in pairs for column in pair]
    random = np.random.default_rng(seed)
    block = random.permutation(n) % BLOCKS
    sums = np.stack([np.bincount(block, column) for column in columns], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # a sample without a row of one class, left out below
        drawn = np.concatenate([random.poisson(1, (DRAWS, len(sums))) @ sums for _ in range(0, resamples, DRAWS)])
        shares = drawn[:resamples, 0::2] / drawn[:resamples, 1::2]
        whole = [column.sum() / weight.sum() for column, weight in zip(columns[0::2], columns[1::2], strict=True)]
    found, at = {}, 0
    for name, pairs in terms.items():
        value, draws = whole[at], shares[:, at]
        if name == "auc":
            value, draws = (value + whole[at + 1]) / 2, (draws + shares[:, at + 1] - value).clip(0, 1)
        found[name] = _interval(overall(name, value), np.sqrt(draws) if name == "rmse" else draws)
        at += len(pairs)
    return {name: found[name] for name in target.measures if name in found}


def _means(target: Target, label: Array, prediction: Array) -> dict[str, Array]:
    """{measure: (n,) float64 terms} of the measures that are means, or roots of means, over the rows."""
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
    """For the positives, then for the negatives: (n,) terms and weights, whose weighted mean is the AUC either way.

    A positive's placement is the share of the negatives behind it, a negative's the share of the positives ahead of it,
    ties counted half. The AUC moves with both means (DeLong and others, 1988; by midranks: Sun and Xu, 2014).
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
    """(n,) ranks from 1, equal values sharing the mean of theirs."""
    _, home, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[home]


def _interval(value: float, draws: Array) -> dict[str, float | None]:
    """The value and its interval; None for what is not defined (JSON knows no NaN)."""
    known = draws[np.isfinite(draws)]
    if not np.isfinite(value) or not len(known):
        return {"value": value if np.isfinite(value) else None, "low": None, "high": None}
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": value, "low": float(low), "high": float(high)}


def calibration(target: Target, label: Array, prediction: Array, bins: int = 10) -> list[dict[str, float]]:
    """What was predicted and what came, in bins of about equally many rows: rows, prediction, label, low, high.

    Means of both, and the 95% interval of the label's: of a share by Wilson, else by the normal distribution. For
    several classes the prediction is the probability of the likeliest class, the label whether it came true. Rows of
    one prediction are never parted, so there may be fewer bins.
    """
    y, p = label.astype(np.float64), prediction.astype(np.float64)
    if p.ndim == 2:
        y, p = (p.argmax(axis=1) == y).astype(np.float64), p.max(axis=1)
    edges = np.unique(np.quantile(p, np.arange(1, bins) / bins, method="lower"))
    home = np.searchsorted(edges, p, side="left")
    found = []
    for i in np.unique(home):
        inside = home == i
        rows, mean, spread = int(inside.sum()), float(y[inside].mean()), float(y[inside].std())
        middle, half = mean, Z * spread / rows**0.5
        if not target.is_regression:
            middle = (mean + Z**2 / (2 * rows)) / (1 + Z**2 / rows)
            half = Z / (1 + Z**2 / rows) * (mean * (1 - mean) / rows + Z**2 / (4 * rows**2)) ** 0.5
        found.append(
            {"rows": rows, "prediction": float(p[inside].mean()), "label": mean}
            | {"low": middle - half, "high": middle + half}
        )
    return found


def calibration_error(bins: list[dict[str, float]]) -> float:
    """The expected calibration error: how far prediction and label are apart in a bin, in the mean over the rows."""
    rows = sum(b["rows"] for b in bins)
    return sum(b["rows"] * abs(b["prediction"] - b["label"]) for b in bins) / rows


def by_measure(measures: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> dict[str, dict[str, float]]:
    """{model: {measure: {"value"}}} turned round: {measure: {model: value}}, what is not known left out."""
    found: dict[str, dict[str, float]] = {}
    for model, of_model in measures.items():
        for name, numbers in of_model.items():
            if (value := numbers["value"]) is not None:
                found.setdefault(name, {})[model] = value
    return {name: found[name] for name in NAMES if name in found}  # facts come in the order of the alphabet
