"""Plot a search: the importance of each parameter, and the parameters and losses of its trials."""

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

FEW = 4  # the least number of trials for which importance is estimated


def search_plots(search: Snapshot) -> dict[str, bytes]:
    """Return PNG images by file name, of a snapshot of the stage `tune`."""
    trials = search.read().to_pylist()
    params = [json.loads(trial["params"]) for trial in trials]
    losses = [trial["valid_loss"] for trial in trials]
    best = np.array([trial["trial"] == search.facts["best_trial"] for trial in trials])
    # A search leaves out axes that do not fit the slices.
    searched = {name: axis for name, axis in search.manifest.config["space"].items() if all(name in p for p in params)}
    space = {name: Axis.model_validate(axis) for name, axis in searched.items()}
    tried = {name: [p[name] for p in params] for name in space}
    lines = plots.parallel_coordinates(tried, np.array(losses), best, search.facts["metric"])
    images = {"parallel_coordinates.png": lines}
    searched_by = [i for i, trial in enumerate(trials) if trial["status"] != "final"]  # others read other rows
    if shares := importances([params[i] for i in searched_by], [losses[i] for i in searched_by], space):
        images["parameter_importance.png"] = parameter_importance(shares, len(searched_by))
    return images


def importances(
    params: Sequence[Mapping[str, Any]], losses: Sequence[float], space: Mapping[str, Axis]
) -> dict[str, float]:
    """Return the share of the loss's variance that each parameter explains by fANOVA, largest first; the sum is 1.

    Stopped trials count with their loss so far, because among a few trials too few are complete. Empty if there are
    fewer than four trials, or if all have the same loss.

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
    """Draw a bar per parameter, with the first on top, as a PNG."""

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
