"""Slices in, an XGBoost model out, trained data-parallel on Ray Train.

`train` makes the untuned baseline from the train slice and the parameters in conf; `refit` makes the final model from
train and validation slices together, with the parameters and rounds that the search found. Out: `model.ubj` (XGBoost's
own format, never pickle) and the learning curve (`round`, `split`, `rmse`).

    raymill run --until refit
"""

from __future__ import annotations

import shutil
from typing import Any

import pyarrow as pa

from tasks.core.settings import TrainConfig
from tasks.core.snapshots import Snapshot, SnapshotWriter, part_name
from tasks.core.stage import stage
from tasks.engines import boosting

CURVE = pa.schema([("round", pa.int32()), ("split", pa.string()), ("rmse", pa.float64())])


@stage(version=1, libraries=("xgboost",))
def train(splits: Snapshot, config: TrainConfig, out: SnapshotWriter) -> None:
    params = {**config.params, "seed": config.seed}
    fit(splits, ("train",), ("valid",), params, config.rounds, config.workers, out)


@stage(version=1, libraries=("xgboost",))
def refit(splits: Snapshot, search: Snapshot, config: TrainConfig, out: SnapshotWriter) -> None:
    params = {**config.params, **search.facts["best_params"], "seed": config.seed}
    fit(splits, ("train", "valid"), (), params, search.facts["best_rounds"], config.workers, out)


def fit(
    splits: Snapshot,
    learn: tuple[str, ...],
    watch: tuple[str, ...],
    params: dict[str, Any],
    rounds: int,
    workers: int,
    out: SnapshotWriter,
) -> None:
    job = boosting.TrainJob(
        train=tuple(f for name in learn for f in splits.files(name)),
        valid=tuple(f for name in watch for f in splits.files(name)),
        features=tuple(splits.facts["features"]),
        params=params,
        rounds=rounds,
    )
    model, curves = boosting.fit(job, workers, out.scratch)
    shutil.rmtree(out.scratch, ignore_errors=True)
    named = {"train": "+".join(learn), "valid": "valid"}
    rows = [(i, named[name], v) for name, curve in curves.items() for i, v in enumerate(curve["rmse"])]
    out.write_bytes("model.ubj", model)
    out.write_table(part_name(0), pa.table(list(map(list, zip(*rows, strict=True))), names=CURVE.names), CURVE)
    out.fact(
        params=params, rounds=rounds, features=list(job.features), rmse={n: c["rmse"][-1] for n, c in curves.items()}
    )
