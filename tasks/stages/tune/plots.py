"""Pictures of a search: which parameters mattered, and what its trials tried."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.core.snapshots import Snapshot
from tasks.domain.search_space import Axis
from tasks.engines import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEW = 4  # trials, below which nothing can be said about importance


def search_plots(search: Snapshot) -> dict[str, bytes]:
    """PNG by file name, of a snapshot of the stage tune."""
    trials = search.read().to_pylist()
    params = [json.loads(trial["params"]) for trial in trials]
    losses = [trial["valid_loss"] for trial in trials]
    best = np.array([trial["trial"] == search.facts["best_trial"] for trial in trials])
    space = {name: Axis.model_validate(axis) for name, axis in search.manifest.config["space"].items()}
    tried = {name: [p[name] for p in params] for name in space}
    lines = plots.parallel_coordinates(tried, np.array(losses), best, search.facts["metric"])
    found = {"parallel_coordinates.png": lines}
    if shares := importances(params, losses, space):
        found["parameter_importance.png"] = parameter_importance(shares, len(trials))
    return found


def importances(
    params: Sequence[Mapping[str, Any]], losses: Sequence[float], space: Mapping[str, Axis]
) -> dict[str, float]:
    """Shares, in all 1, of the loss's variance that each parameter explains by fANOVA, the largest first.

    Stopped trials count, with the loss they had come to: of a few trials too few are complete. Empty where there are
    fewer than four, or where all have the same loss.

    Source: Hutter, Hoos, Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance, 2014.
    """
    import optuna

    from tasks.stages.tune.suggestions import distribution

    if len(losses) < FEW or len(set(losses)) == 1:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    axes = {name: distribution(axis) for name, axis in space.items()}
    for given, loss in zip(params, losses, strict=True):
        study.add_trial(optuna.create_trial(params=dict(given), distributions=axes, value=loss))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items()}


def parameter_importance(shares: Mapping[str, float], trials: int) -> bytes:
    """A bar per parameter, on top the first."""

    def draw(ax: Axes) -> None:
        y = np.arange(len(shares))[::-1]
        values = np.array(list(shares.values())) * 100
        bars = ax.barh(y, values, color=plots.TUNED, height=0.72)
        ax.bar_label(bars, [f"{value:.0f}%" for value in values], padding=3, fontsize=9)
        ax.set_yticks(y, list(shares))
        ax.set(xlabel=f"share of the loss's variance, {trials} trials (fANOVA, %)")
        ax.grid(visible=False, axis="y")
        ax.margins(x=0.14, y=0.02)

    return plots.png(draw, (plots.COLUMN[0], 1.0 + 0.25 * max(len(shares), 4)))
