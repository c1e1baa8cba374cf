"""XGBoost: feature files to DMatrix without a second copy, training on Ray Train, models as bytes.

Rows are dealt to workers in equal runs of whole table order, and none is dropped: Ray Data's own split drops the
remainder. Every rank builds every DMatrix, even from no rows, or the all-reduce of the quantile sketch would hang.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.errors import RunError, TransientError
from tasks.engines import cluster

LABEL = "rating"


@dataclass(frozen=True)
class TrainJob:
    """What each worker needs: file names and numbers, no data."""

    train: tuple[Path, ...]
    valid: tuple[Path, ...]
    features: tuple[str, ...]
    params: dict[str, Any]
    rounds: int


def batches(
    files: Sequence[Path], features: Sequence[str], rank: int = 0, world_size: int = 1
) -> Iterator[tuple[Any, Any]]:
    """This rank's rows as ((n, f) float32 with NaN for null, (n,) float32) batches, one per file it touches."""
    counts = [pq.read_metadata(f).num_rows for f in files]
    total = sum(counts)
    first, last = total * rank // world_size, total * (rank + 1) // world_size
    start = 0
    for file, count in zip(files, counts, strict=True):
        a, b = max(first - start, 0), min(last - start, count)
        start += count
        if a < b:
            yield arrays(pq.ParquetFile(file).read(columns=[*features, LABEL]).slice(a, b - a), features)


def arrays(table: pa.Table, features: Sequence[str]) -> tuple[Any, Any]:
    """((n, f) float32 with NaN for null, (n,) float32) of a feature table."""
    x = np.empty((table.num_rows, len(features)), dtype=np.float32)
    for i, name in enumerate(features):
        x[:, i] = table[name].to_numpy()
    return x, table[LABEL].to_numpy()


def quantile_matrix(rows: Sequence[tuple[Any, Any]], features: Sequence[str], ref: Any = None) -> Any:
    """A QuantileDMatrix over batches; `ref` shares the training matrix's cuts, as validation must."""
    import xgboost as xgb

    class Batches(xgb.DataIter):
        def __init__(self) -> None:
            super().__init__()
            self.at = 0

        def next(self, input_data: Any) -> bool:
            if self.at == len(rows):
                return False
            x, y = rows[self.at]
            input_data(data=x, label=y, feature_names=list(features))
            self.at += 1
            return True

        def reset(self) -> None:
            self.at = 0

    if not rows:
        empty = np.empty((0, len(features)), dtype=np.float32)
        return xgb.QuantileDMatrix(empty, np.empty(0, dtype=np.float32), feature_names=list(features), ref=ref)
    return xgb.QuantileDMatrix(Batches(), ref=ref)


def fit(job: TrainJob, workers: int, folder: Path) -> tuple[bytes, dict[str, dict[str, list[float]]]]:
    """Train on `workers` Ray Train workers; returns the model as UBJ bytes and RMSE by slice and round.

    `folder` takes Ray Train's own files and is left to the caller.
    """
    with cluster.IMPORTING:
        from ray import train
        from ray.exceptions import RayError
        from ray.train.v2.api.exceptions import TrainingFailedError
        from ray.train.xgboost import XGBoostTrainer

    trainer = XGBoostTrainer(
        train_loop_per_worker,
        train_loop_config={"job": job},
        scaling_config=train.ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 0.5}),
        run_config=train.RunConfig(
            name="train", storage_path=str(folder), failure_config=train.FailureConfig(max_failures=2)
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        failures = list(getattr(error, "worker_failures", {}).values())
        reasons = "; ".join(sorted({str(e).strip().splitlines()[-1] for e in failures})) or str(error)
        # What our own code or XGBoost raised will be raised again; a lost worker will not.
        kind = TransientError if any(isinstance(e, RayError) for e in failures) else RunError
        raise kind(f"distributed training failed: {reasons}", where="Ray Train", fix="check train.params") from error
    if result.checkpoint is None:
        raise RunError("training ended without a model", where="Ray Train")
    with result.checkpoint.as_directory() as saved:
        return (Path(saved) / "model.ubj").read_bytes(), result.metrics["curves"]


def train_loop_per_worker(config: dict[str, Any]) -> None:
    """One rank: its rows, the shared rounds, then one report with the model from rank 0."""
    import xgboost as xgb
    from ray import train

    job: TrainJob = config["job"]
    context = train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    dtrain = quantile_matrix(list(batches(job.train, job.features, rank, size)), job.features)
    evals = [(dtrain, "train")]
    if job.valid:
        evals.append(
            (quantile_matrix(list(batches(job.valid, job.features, rank, size)), job.features, dtrain), "valid")
        )
    curves: dict[str, dict[str, list[float]]] = {}
    # nthread: Ray sets OMP_NUM_THREADS from the CPUs assigned, XGBoost's own default would not heed it.
    params = {"objective": "reg:squarederror", "tree_method": "hist", "nthread": 1, **job.params}
    model = xgb.train(params, dtrain, job.rounds, evals=evals, evals_result=curves, verbose_eval=False)
    # One report, at the end: each one blocks until the controller's next poll.
    with tempfile.TemporaryDirectory() as folder:
        if rank == 0:
            (Path(folder) / "model.ubj").write_bytes(bytes(model.save_raw("ubj")))
            train.report({"curves": curves}, checkpoint=train.Checkpoint.from_directory(folder))
        else:
            train.report({"curves": curves})


def load_model(data: bytes) -> Any:
    import xgboost as xgb

    booster = xgb.Booster()
    booster.load_model(bytearray(data))
    return booster


def predict(booster: Any, x: Any, features: Sequence[str]) -> Any:
    """(n,) float32 predictions; raises ValueError where the model knows other features."""
    import xgboost as xgb

    return booster.predict(xgb.DMatrix(x, feature_names=list(features), nthread=1))
