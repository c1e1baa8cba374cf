"""Ablation: measure each group of features by the untuned model with all groups, and without each in turn.

All models train on the same train slice with the parameters and rounds in conf, and are compared on the validation
slice; the test slice is not read. Columns are only left out, nothing is computed again. Each model is one Ray task that
reads the slices itself, so its matrix must fit into one process; the rows' losses pass from task to task.

A difference is the loss without the group minus the loss with it: above zero, the group helps. Its interval is that of
a paired bootstrap over the validation rows, so it covers chance in these rows, not the change from year to year. Two
groups with the same information hide each other: leaving out only one changes nothing.

    raymill ablate
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.core.errors import InputError
from tasks.core.snapshots import Snapshot
from tasks.domain import constraints
from tasks.domain.losses import losses, overall
from tasks.domain.metrics import bootstrap_sums
from tasks.domain.targets import TARGETS
from tasks.engines import cluster, quantile_matrices
from tasks.engines.feature_files import slabs
from tasks.engines.feature_rows import Rows
from tasks.stages.train.stage import TrainConfig

RESAMPLES = 1000
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Worth:
    """A group's number of `features`, the loss `without` it, and the difference from the loss with all groups.

    low, high: a 95% interval of the difference.
    """

    group: str
    features: int
    without: float
    difference: float
    low: float
    high: float


def ablate(splits: Snapshot, config: TrainConfig) -> dict[str, Any]:
    """Rank the groups by worth, as JSON values: `target`, `metric`, `rows`, `loss` with all groups, `groups` (Worth).

    Raises InputError if the splits have only one group.
    """
    import ray

    groups, target = splits.facts["groups"], splits.facts["target"]
    names = splits.facts["features"]
    if len(groups) < 2:
        raise InputError(
            f"the only group of features is {', '.join(groups) or 'none'}: there is nothing to leave out",
            where="ablate",
            fix="switch more on in features.groups",
        )
    files = (splits.files("train"), splits.files("valid"))
    learn: Any = ray.remote(losses_of)
    order = sorted(groups)
    variants = [names, *([n for n in names if n not in groups[group]] for group in order)]
    losses = [learn.remote(*files, features, target, config, names) for features in variants]
    (compared,) = cluster.gather([ray.remote(compare).remote(TARGETS[target].metric, *losses)])
    values, spread = compared
    worths = [
        Worth(group, len(groups[group]), without, without - values[0], *interval)
        for group, without, interval in zip(order, values[1:], spread, strict=True)
    ]
    return {
        "target": target,
        "metric": TARGETS[target].metric,
        "rows": splits.rows("valid"),
        "features": len(names),
        "loss": values[0],
        "groups": [asdict(w) for w in sorted(worths, key=lambda w: -w.difference)],
    }


def losses_of(
    train: Sequence[Path],
    valid: Sequence[Path],
    features: Sequence[str],
    target: str,
    config: TrainConfig,
    every: Sequence[str] = (),
) -> Array:
    """Train a model on these features; returns the (n,) losses of the validation rows.

    every: all features of the splits, which constraints in `config.params` refer to; () if `features` are all.
    """
    import xgboost as xgb

    rows = [Rows(slabs(files), features) for files in (train, valid)]
    own = constraints.restricted(config.params, every or features, features, "train.params")
    params = {"tree_method": "hist", "nthread": 1, "seed": config.seed, **own, **TARGETS[target].params}
    learned = quantile_matrices.matrix(rows[0], max_bin=params.get("max_bin"))
    judged = quantile_matrices.plain_matrix(rows[1].walk(), features)
    for problem in (r.problem for r in rows):
        if problem is not None:
            raise problem
    patience = config.early_stopping_rounds
    model = xgb.train(
        params,
        learned,
        config.rounds,
        evals=[(judged, "valid")],
        early_stopping_rounds=patience,
        verbose_eval=False,
    )
    best = model.best_iteration + 1 if patience else config.rounds
    return losses(TARGETS[target], judged.get_label(), model.predict(judged, iteration_range=(0, best)))


def compare(metric: str, *losses: Array) -> tuple[list[float], list[tuple[float, float]]]:
    """Return each model's metric, and for all but the first a 95% interval of the difference from the first.

    losses: (n,) of each model on the same rows.
    """
    samples = bootstrap_sums([np.ones(len(losses[0])), *losses], RESAMPLES)
    samples = samples[samples[:, 0] > 0]
    means = samples[:, 1:] / samples[:, :1]
    values = np.sqrt(means) if metric == "rmse" else means
    low, high = np.quantile(values[:, 1:] - values[:, :1], [0.025, 0.975], axis=0)
    metrics = [overall(metric, float(column.mean())) for column in losses]
    return metrics, list(zip(low.tolist(), high.tolist(), strict=True))
