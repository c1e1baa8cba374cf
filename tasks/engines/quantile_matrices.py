"""Load rows into XGBoost's matrices: what is learned from as quantiles, without a second copy of it.

Every rank builds every matrix, even from no rows, or the all-reduce of the quantile sketch would hang.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.engines.feature_rows import Rows


def quantile_matrix(
    rows: Sequence[tuple[Any, Any]], features: Sequence[str], ref: Any = None, max_bin: int | None = None
) -> Any:
    """Build a QuantileDMatrix from batches; with `ref` it shares that one's cuts."""
    return _matrix(lambda: iter(rows), features, ref=ref, max_bin=max_bin)


def matrix(
    rows: Rows, *, ref: Any = None, max_bin: int | None = None, threads: int = 1, cache: Path | None = None
) -> Any:
    """Build a QuantileDMatrix while reading rows, or, with `cache`, one with its pages on disk under that prefix.

    Check `rows.problem` afterwards: if it is set, the matrix must not be used. No rows make an empty matrix.
    """
    return _matrix(rows.walk, rows.features, ref=ref, max_bin=max_bin, threads=threads, cache=cache)


def plain_matrix(batches: Iterable[tuple[Any, Any]], features: Sequence[str], threads: int = 1) -> Any:
    """Build a DMatrix of rows that rounds are compared on: eight bytes a value, not one.

    A round's new tree is done with its rows in a fifth of the time that it takes on a quantile matrix, which looks up
    the value of every bin of a row, whether the tree asks for it or not (decision 017). Predictions are those of the
    model: a quantile matrix takes what is below all learned values for the least of them, which a tree can tell apart.
    """
    import xgboost as xgb

    none = (np.empty((0, len(features)), np.float32), np.empty(0, np.float32))
    x, y = (np.concatenate(arrays) for arrays in zip(none, *batches, strict=True))
    return xgb.DMatrix(x, y, feature_names=list(features), nthread=threads)


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
