"""XGBoost: load feature files into matrices without a second copy, compute losses, predict.

Each worker gets an equal contiguous range of the table, and no row is dropped: Ray Data's own split drops the
remainder. Every rank builds every matrix, even from no rows, or the all-reduce of the quantile sketch would hang. This
module does not use Ray; `tasks.engines.ray_train` does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.errors import InputError
from tasks.domain.losses import losses, overall
from tasks.domain.targets import Target

LABEL = "label"
LOSS_ROWS = 1 << 16


@dataclass(frozen=True)
class Slab:
    """Rows start..stop of one row group of a parquet file."""

    file: Path
    group: int
    start: int
    stop: int

    def read(self, columns: Sequence[str]) -> pa.Table:
        whole = pq.ParquetFile(self.file).read_row_group(self.group, columns=list(columns))
        return whole.slice(self.start, self.stop - self.start)


def slabs(files: Sequence[Path], rank: int = 0, world_size: int = 1) -> list[Slab]:
    """List this rank's rows: its equal range of the table that the files form in order."""
    groups = [
        (f, g, meta.row_group(g).num_rows) for f in files for meta in (pq.read_metadata(f),) for g in _groups(meta)
    ]
    total = sum(rows for *_, rows in groups)
    first, last = total * rank // world_size, total * (rank + 1) // world_size
    own, begin = [], 0
    for file, group, rows in groups:
        start, stop = max(first - begin, 0), min(last - begin, rows)
        begin += rows
        if start < stop:
            own.append(Slab(file, group, start, stop))
    return own


def _groups(metadata: Any) -> range:
    return range(metadata.num_row_groups)


def batches(
    files: Sequence[Path], features: Sequence[str], rank: int = 0, world_size: int = 1
) -> Iterator[tuple[Any, Any]]:
    """Yield this rank's rows as ((n, f) float32 with NaN for null, (n,) float32) batches, one per file."""
    for _, mine in groupby(slabs(files, rank, world_size), key=lambda slab: slab.file):
        yield arrays(pa.concat_tables([slab.read([*features, LABEL]) for slab in mine]), features)


def label_range(files: Sequence[Path]) -> tuple[float, float] | None:
    """Return the smallest and the largest label, from the row groups' statistics; None without rows."""
    stats = []
    for meta in map(pq.read_metadata, files):
        column = meta.schema.names.index(LABEL)
        stats += [g.column(column).statistics for g in map(meta.row_group, range(meta.num_row_groups)) if g.num_rows]
    return (min(s.min for s in stats), max(s.max for s in stats)) if stats else None


def arrays(table: pa.Table, features: Sequence[str]) -> tuple[Any, Any]:
    """Convert a feature table to ((n, f) float32 with NaN for null, (n,) float32)."""
    # Filled feature by feature and transposed: XGBoost accepts strides, and this takes a third of the time.
    x = np.empty((len(features), table.num_rows), dtype=np.float32)
    for i, name in enumerate(features):
        x[i] = table[name].to_numpy()
    return x.T, table[LABEL].to_numpy()


@dataclass
class Rows:
    """The rows of one rank, or one in `every`, a row group at a time. XGBoost iterates five times, reading anew.

    problem: the error of the first unusable row group. Iteration ends before it, so that this rank still takes part in
    building the matrix and can report to the others afterwards.
    """

    slabs: Sequence[Slab]
    features: Sequence[str]
    every: int = 1
    problem: InputError | None = None
    _checked: set[Slab] = field(default_factory=set)

    def walk(self) -> Iterator[tuple[Any, Any]]:
        seen = 0
        for slab in self.slabs:
            batch = arrays(slab.read([*self.features, LABEL]), self.features)
            if slab not in self._checked:
                if problem := infinite(slab, self.features, *batch):
                    self.problem = problem
                    return
                self._checked.add(slab)
            if self.every > 1:
                batch = tuple(a[-seen % self.every :: self.every].copy() for a in batch)
                seen += slab.stop - slab.start
            yield batch


def infinite(slab: Slab, features: Sequence[str], x: Any, y: Any) -> InputError | None:
    """Return an error naming the first infinite feature, or the first label that is not finite; None if all is well."""
    # An infinite value is a feature's least or greatest; nulls are NaN, and ignored.
    with np.errstate(invalid="ignore"):
        bad = [i for i in range(len(features)) if len(y) and np.isinf(x[:, i]).any()]
    what = f"the feature {features[bad[0]]!r} holds an infinite value" if bad else ""
    if not what and not np.isfinite(y).all():
        what = f"the column {LABEL!r} holds a value that is not a number"
    if not what:
        return None
    column = x[:, bad[0]] if bad else y
    row = slab.start + int(np.flatnonzero(np.isinf(column) if bad else ~np.isfinite(column))[0])
    return InputError(
        f"{what} (row {row:,} of row group {slab.group})",
        where=str(slab.file),
        fix="fix the stage that made it: an unknown value must be null",
    )


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


def read_slices(
    slices: Sequence[Sequence[Path]], features: Sequence[str], max_rows: int
) -> tuple[InputError | None, list[list[tuple[Any, Any]]]]:
    """Read each slice as batches of arrays; returns the first error, if any, and the batches of each slice.

    Of a slice with more than `max_rows` rows, a sample of at most so many is read, evenly spread.
    """
    batches_of_slices = []
    for files in slices:
        own = slabs(list(files))
        total = sum(slab.stop - slab.start for slab in own)
        rows = Rows(own, list(features), every=max(1, -(-total // max_rows)))
        batches_of_slices.append(list(rows.walk()))
        if rows.problem:
            return rows.problem, []
    return None, batches_of_slices


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
