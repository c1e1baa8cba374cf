"""Compute the report's section on models: learning curves, trials, scores and errors, as small tables and plots.

Predictions are read in batches into histograms of fixed size, so memory does not grow with the rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from tasks.core.snapshots import Snapshot
from tasks.domain.metrics import HIGHER_IS_BETTER, MODELS, NAMES, name_of
from tasks.domain.targets import Target
from tasks.engines import plots
from tasks.stages.report import data_section as data
from tasks.stages.report import model_plots

FEATURES_DRAWN = 20
STAR_EDGES = np.linspace(0, 6, 61)
SHARE_EDGES = np.linspace(0, 1, 41)
RESIDUAL_EDGES = np.linspace(-5, 5, 101)  # stars


def score_table(facts: Mapping[str, Any], target: Target) -> dict[str, Any]:
    """Tabulate evaluation's measures: `columns` (names) and `rows` of label, key and a cell for each measure.

    A cell has value, low and high, and, if smaller is better, `gain`: the share by which it is below predict-the-mean's
    (None if unknown).
    """
    measures = facts["measures"]
    rows = []
    for key, label in MODELS.items():
        if key not in measures:
            continue
        if key == "mean" and not target.is_regression:
            label = "predict-the-shares"
        cells = []
        for name in target.measures:
            cell = {"value": None, "low": None, "high": None, **measures[key].get(name, {})}
            mean = measures["mean"].get(name, {}).get("value")
            comparable = key != "mean" and name not in HIGHER_IS_BETTER and mean and cell["value"] is not None
            cells.append({**cell, "gain": 1 - cell["value"] / mean if comparable else None})
        rows.append({"key": key, "label": label, "cells": cells})
    columns = [
        {"name": name_of(target, m), "short": NAMES[m], "gains": m not in HIGHER_IS_BETTER} for m in target.measures
    ]
    return {"columns": columns, "rows": rows}


def split_table(facts: Mapping[str, Any], reasons: Mapping[str, str]) -> dict[str, Any]:
    """Tabulate the slices (`rows`: name, reviews, from, until) and the reviews in none, by reason (`left_out`)."""
    borders, periods = facts.get("borders") or {}, facts.get("periods") or {}
    rows = []
    for name in ("train", "valid", "test"):
        period = periods.get(name, {})
        until = period.get("until") or borders.get(f"{name}_until")
        rows.append({"name": name, "reviews": facts["rows"][name], "from": period.get("from"), "until": until})
    counts = facts.get("left_out") or {}
    left_out = [
        (reasons.get(reason, reason), counts[reason])
        for reason in dict.fromkeys([*reasons, *counts])
        if reason in counts
    ]
    return {"rows": rows, "left_out": left_out, "by": facts.get("by", "time")}


def trial_rows(search: Snapshot) -> list[dict[str, Any]]:
    """List the trials in order, with parsed parameters; a trial that never reported has the loss None."""
    columns = ["trial", "status", "rounds", "best_round", "valid_loss", "params", "train_rows"]
    trials = data.read_rows(search, columns=columns)
    for trial in trials:
        trial["params"] = json.loads(trial["params"])
        if trial["valid_loss"] is not None and not np.isfinite(trial["valid_loss"]):
            trial["valid_loss"] = None
    return sorted(trials, key=lambda trial: trial["trial"])


def learning_plots(
    baseline: Snapshot, search: Snapshot, model: Snapshot, trials: Sequence[Mapping[str, Any]], metric: str
) -> dict[str, bytes]:
    """Plot learning curves and trials; metric: its name with its unit."""
    best = search.facts["best_trial"]
    curves = dict(_curves(search, "trial", "curves"))
    lines = [
        (f"untuned, {split}", plots.UNTUNED, ":" if split == "train" else "-", *curve)
        for split, curve in _curves(baseline, "split")
    ]
    if best in curves:
        lines.append(("tuned, valid (the best trial)", plots.TUNED, "-", *curves[best]))
    lines += [(f"tuned, {split}", plots.TUNED, ":", *curve) for split, curve in _curves(model, "split")]
    pictures = {"learning": plots.learning_curves(lines, metric)}
    if scored := [trial for trial in trials if trial["valid_loss"] is not None]:
        numbers, loss = (np.array([trial[name] for trial in scored]) for name in ("trial", "valid_loss"))
        names = sorted({name for trial in scored for name in trial["params"]})
        complete = np.array([t["status"] != "pruned" for t in scored])
        pictures["trials"] = plots.trials(numbers, loss, complete, metric)
        pictures["parallel"] = plots.parallel_coordinates(
            {name: [trial["params"].get(name) for trial in scored] for name in names}, loss, numbers == best, metric
        )
    if curves:
        stopped = frozenset(trial["trial"] for trial in trials if trial["status"] == "pruned")
        pictures["trial_curves"] = plots.trial_curves(curves, best, stopped, metric)
    return pictures


def _curves(snapshot: Snapshot, by: str, table: str = "") -> list[tuple[Any, tuple[np.ndarray, np.ndarray]]]:
    """Return rounds and losses of each trial or split, in order."""
    rows = sorted(data.read_rows(snapshot, table, [by, "round", "loss"]), key=lambda row: (row[by], row["round"]))
    return [
        (name, (np.array([row["round"] for row in group]), np.array([row["loss"] for row in group])))
        for name, group in ((name, list(group)) for name, group in groupby(rows, key=lambda row: row[by]))
    ]


def score_plots(
    scores: Snapshot, target: Target, seen: Mapping[str, np.ndarray], importance: Sequence[Mapping[str, Any]]
) -> dict[str, bytes]:
    """Plot importance, errors and calibration; seen: the result of `histograms`."""
    pictures = {}
    if importance:
        features, shap, gain = ([row[name] for row in importance] for name in ("feature", "shap", "gain"))
        pictures["importance"] = model_plots.importance(features, shap, gain, FEATURES_DRAWN)
    unit = target.unit
    if "residuals" in seen:
        tuned, untuned = seen["residuals"]
        pictures["residuals"] = model_plots.residuals(residual_edges(target), tuned, untuned, unit)
    if "outcomes" in seen:
        pictures["probabilities"] = model_plots.probabilities(SHARE_EDGES, seen["outcomes"][1], seen["outcomes"][0])
    if "by_star" in seen:
        in_stars = unit == "stars"
        predicted = "predicted rating (stars)" if in_stars else f"predicted probability of {target.says}"
        pictures["by_star"] = model_plots.by_star(star_edges(target), seen["by_star"], predicted, in_stars)
    bins: dict[str, list[dict[str, float]]] = {}
    for row in data.read_rows(scores, "calibration"):
        bins.setdefault(row["model"], []).append(row)
    if bins:
        if target.classes > 1:
            axes = "probability of the likeliest class", "share that came true"
        elif target.is_regression:
            axes = f"predicted ({unit}, mean of the bin)", f"true ({unit}, mean of the bin)"
        else:
            axes = "predicted probability (mean of the bin)", f"share of {target.says}"
        named = {MODELS[m]: bins[m] for m in ("tuned", "baseline") if m in bins}
        pictures["calibration"] = model_plots.calibration(named, *axes)
    return pictures


def star_edges(target: Target) -> np.ndarray:
    return STAR_EDGES if target.unit == "stars" else SHARE_EDGES


def residual_edges(target: Target) -> np.ndarray:
    return RESIDUAL_EDGES if target.unit == "stars" else RESIDUAL_EDGES / 5


def histograms(scores: Snapshot, target: Target) -> dict[str, np.ndarray]:
    """Count test rows in bins; values outside count in the outermost bins.

    residuals: tuned and untuned, by predicted minus true. outcomes: not positive and positive, by the probability.
    by_star: true star × prediction. confusion: true star × the likeliest of the classes.
    """
    totals: dict[str, np.ndarray] = {}
    edges, reach = residual_edges(target), star_edges(target)
    names = ["rating", "label", "baseline", "tuned"]
    shares = [f"tuned_{i + 1}" for i in range(target.classes)] if target.classes > 1 else []
    for batch in data.batches(scores, [*names, *shares]):
        rating, label, baseline, tuned = (batch[name].to_numpy().astype(np.float64) for name in names)
        counts = {}
        if target.unit:
            true = label + 1 if target.classes > 1 else label
            counts["residuals"] = np.stack([_counted(p - true, edges) for p in (tuned, baseline)])
        else:
            counts["outcomes"] = np.stack([_counted(tuned[label == outcome], reach) for outcome in (0, 1)])
        if target.from_stars:
            star = np.floor(rating + 0.5)
            counts["by_star"] = np.stack([_counted(tuned[star == s], reach) for s in range(1, 6)])
        if shares:
            likeliest = np.stack([batch[name].to_numpy() for name in shares]).argmax(axis=0)
            cells = np.bincount(label.astype(int) * target.classes + likeliest, minlength=target.classes**2)
            counts["confusion"] = cells.reshape(target.classes, -1)
        for name, count in counts.items():
            totals[name] = totals.get(name, 0) + count
    return totals


def _counted(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    hair = (edges[1] - edges[0]) / 1000
    return np.histogram(values.clip(edges[0] + hair, edges[-1] - hair), edges)[0]


def worst_errors(scores: Snapshot, target: Target) -> list[dict[str, Any]]:
    """List the largest errors, `true` and `prediction` in the target's unit."""
    rows = data.read_rows(scores, "worst")
    for row in rows:
        row["true"] = row["label"] + 1 if target.classes > 1 else row["label"]
    return rows
