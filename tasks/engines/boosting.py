"""XGBoost in one process: import it, set its threads, compute losses, load a model, predict.

This module does not use Ray; `tasks.engines.ray_train` does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.domain.losses import losses, overall
from tasks.domain.targets import Target

LOSS_ROWS = 1 << 16


def import_xgboost() -> None:
    """Import XGBoost without scikit-learn, which it imports if installed: 1.8 s and 60 MB for each worker."""
    if "xgboost" in sys.modules or "sklearn" in sys.modules:
        return
    sys.modules["sklearn"] = None  # type: ignore[assignment]  # makes Python's import of it fail
    try:
        import xgboost  # noqa: F401
    finally:
        del sys.modules["sklearn"]


def use_threads(threads: int) -> None:
    """Set the number of threads of XGBoost, when called from this thread, and of Arrow.

    Ray sets OMP_NUM_THREADS=1 for a worker with fewer than two CPUs. XGBoost and Arrow use no more than OpenMP's
    default, whatever XGBoost's `nthread` says.
    """
    import xgboost as xgb

    pa.set_cpu_count(threads)
    xgb.core._LIB.omp_set_num_threads(threads)


def loss(booster: Any, data: Any, label: Any, target: Target) -> float:
    """Compute the target's metric of a booster on a matrix with these labels, over the rows of all workers.

    The last digit of XGBoost's own metric depends on the number of threads, and it takes three times as long. Trees do
    not depend on the threads, as they sum float32 values in float64.
    """
    from xgboost import collective

    # In a plain regression the margin is the prediction, at a tenth of the time.
    plain = target.objective == "reg:squarederror"
    predictions = booster.predict(data, output_margin=plain) if len(label) else label
    # In pieces: the C library allocates blocks over 32 MB from the system, and returns them, each time.
    pieces = (slice(at, at + LOSS_ROWS) for at in range(0, len(label), LOSS_ROWS))
    sums = [losses(target, label[piece], predictions[piece]).sum() for piece in pieces]
    total, rows = collective.allreduce(np.array([sum(sums), len(label)], np.float64), collective.Op.SUM)
    return overall(target.metric, total / rows)


def load_model(data: bytes) -> Any:
    import xgboost as xgb

    booster = xgb.Booster()
    booster.load_model(bytearray(data))
    return booster


def predict(booster: Any, x: Any, features: Sequence[str]) -> Any:
    """Predict, as float32: (n,), or (n, classes) probabilities for several classes.

    Raises ValueError if the model has other features.
    """
    import xgboost as xgb

    return booster.predict(xgb.DMatrix(x, feature_names=list(features), nthread=1))
