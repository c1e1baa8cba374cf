"""Load rows into XGBoost's quantile matrices without a second copy of them.

Every rank builds every matrix, even from no rows, or the all-reduce of the quantile sketch would hang.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.engines.feature_rows import Rows


def quantile_matrix(
    rows: Sequence[tuple[Any, Any]], features: Sequence[str], ref: Any = None, max_bin: int | None = None
) -> Any:
    """Build a QuantileDMatrix from batches; with `ref` it shares the training matrix's cuts, as validation must."""
    return _matrix(lambda: iter(rows), features, ref=ref, max_bin=max_bin)


def matrix(
    rows: Rows, *, ref: Any = None, max_bin: int | None = None, threads: int = 1, cache: Path | None = None
) -> Any:
    """Build a QuantileDMatrix while reading rows, or, with `cache`, one with its pages on disk under that prefix.

    Check `rows.problem` afterwards: if it is set, the matrix must not be used. No rows make an empty matrix.
    """
    return _matrix(rows.walk, rows.features, ref=ref, max_bin=max_bin, threads=threads, cache=cache)


def _matrix(
    walk: Callable[[], Iterator[tuple[Any, Any]]],
    features: Sequence[str],
    *,
    ref: Any = None,
    max_bin: int | None = None,
    threads: int = 1,
    cache: Path | None = None,
) -> Any:
    import xgboost as xgb

    names = list(features)

    class Batches(xgb.DataIter):
        def __init__(self) -> None:
            super().__init__(cache_prefix=str(cache) if cache else None)
            self.walk = walk()
            self.any = False

        def next(self, input_data: Any) -> bool:
            batch = next(self.walk, None)
            if batch is None and self.any:
                return False
            # XGBoost needs at least one batch: an empty one if there are no rows.
            x, y = batch or (np.empty((0, len(names)), np.float32), np.empty(0, np.float32))
            self.any = True
            input_data(data=x, label=y, feature_names=names)
            return True

        def reset(self) -> None:
            self.walk, self.any = walk(), False

    kind = xgb.ExtMemQuantileDMatrix if cache else xgb.QuantileDMatrix
    return kind(Batches(), ref=ref, max_bin=max_bin, nthread=threads)
