"""XGBoost: feature files to matrices without a second copy, models as bytes, predictions.

Rows are dealt to workers in equal runs of whole table order, and none is dropped: Ray Data's own split drops the
remainder. Every rank builds every matrix, even from no rows, or the all-reduce of the quantile sketch would hang.
Nothing here knows of Ray: `tasks.engines.ray_train` does.
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
    """This rank's rows: its equal run of the table that the files make up in their order."""
    groups = [
        (f, g, meta.row_group(g).num_rows) for f in files for meta in (pq.read_metadata(f),) for g in _groups(meta)
    ]
    total = sum(rows for *_, rows in groups)
    first, last = total * rank // world_size, total * (rank + 1) // world_size
    found, begin = [], 0
    for file, group, rows in groups:
        start, stop = max(first - begin, 0), min(last - begin, rows)
        begin += rows
        if start < stop:
            found.append(Slab(file, group, start, stop))
    return found


def _groups(metadata: Any) -> range:
    return range(metadata.num_row_groups)


def batches(
    files: Sequence[Path], features: Sequence[str], rank: int = 0, world_size: int = 1
) -> Iterator[tuple[Any, Any]]:
    """This rank's rows as ((n, f) float32 with NaN for null, (n,) float32) batches, one per file it touches."""
    for _, mine in groupby(slabs(files, rank, world_size), key=lambda slab: slab.file):
        yield arrays(pa.concat_tables([slab.read([*features, LABEL]) for slab in mine]), features)


def label_range(files: Sequence[Path]) -> tuple[float, float] | None:
    """The smallest and the largest label, from the statistics of the row groups; None where there is no row."""
    found = []
    for meta in map(pq.read_metadata, files):
        column = meta.schema.names.index(LABEL)
        found += [g.column(column).statistics for g in map(meta.row_group, range(meta.num_row_groups)) if g.num_rows]
    return (min(s.min for s in found), max(s.max for s in found)) if found else None


def arrays(table: pa.Table, features: Sequence[str]) -> tuple[Any, Any]:
    """((n, f) float32 with NaN for null, (n,) float32) of a feature table."""
    # Filled a feature at a time and turned round: XGBoost heeds strides, and this takes a third of the time.
    x = np.empty((len(features), table.num_rows), dtype=np.float32)
    for i, name in enumerate(features):
        x[i] = table[name].to_numpy()
    return x.T, table[LABEL].to_numpy()


@dataclass
class Rows:
    """The rows of one rank, a row group at a time, for as many walks as XGBoost takes: five, each read anew.

    problem: what is wrong with the first row group that cannot be learned from; the walk ends before it, so that this
    rank still takes its part in building the matrix and can tell the others afterwards.
    """

    slabs: Sequence[Slab]
    features: Sequence[str]
    problem: InputError | None = None
    _checked: set[Slab] = field(default_factory=set)

    def walk(self) -> Iterator[tuple[Any, Any]]:
        for slab in self.slabs:
            batch = arrays(slab.read([*self.features, LABEL]), self.features)
            if slab not in self._checked:
                if problem := infinite(slab, self.features, *batch):
                    self.problem = problem
                    return
                self._checked.add(slab)
            yield batch


def infinite(slab: Slab, features: Sequence[str], x: Any, y: Any) -> InputError | None:
    """An error that names the first infinite feature, or the first label that is no finite number."""
    # Of a feature that has one, the smallest or the largest value is infinite; nulls are NaN, and left out.
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
        fix="mend the stage that made it: a value that is not known is null",
    )


def quantile_matrix(rows: Sequence[tuple[Any, Any]], features: Sequence[str], ref: Any = None) -> Any:
    """A QuantileDMatrix over batches; `ref` shares the training matrix's cuts, as validation must."""
    return _matrix(lambda: iter(rows), features, ref=ref)


def matrix(
    rows: Rows, *, ref: Any = None, max_bin: int | None = None, threads: int = 1, cache: Path | None = None
) -> Any:
    """A QuantileDMatrix from rows as they are read, or, with `cache`, one whose pages lie on disk under that prefix.

    See `rows.problem` afterwards: a matrix of rows with one is not to be used. No rows make an empty matrix.
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
            # XGBoost has no iterator of no batches: no rows are one batch of none.
            x, y = batch or (np.empty((0, len(names)), np.float32), np.empty(0, np.float32))
            self.any = True
            input_data(data=x, label=y, feature_names=names)
            return True

        def reset(self) -> None:
            self.walk, self.any = walk(), False

    kind = xgb.ExtMemQuantileDMatrix if cache else xgb.QuantileDMatrix
    return kind(Batches(), ref=ref, max_bin=max_bin, nthread=threads)


def read_slices(
    slices: Sequence[Sequence[Path]], features: Sequence[str]
) -> tuple[InputError | None, list[list[tuple[Any, Any]]]]:
    """What is wrong with the slices, if anything, and for each slice its batches of arrays."""
    found = []
    for files in slices:
        rows = Rows(slabs(list(files)), list(features))
        found.append(list(rows.walk()))
        if rows.problem:
            return rows.problem, []
    return None, found


def import_xgboost() -> None:
    """Import XGBoost without scikit-learn, which it takes if it is there: 1.8 s and 60 MB of each worker."""
    if "xgboost" in sys.modules or "sklearn" in sys.modules:
        return
    sys.modules["sklearn"] = None  # type: ignore[assignment]  # Python's way to say that there is none
    try:
        import xgboost  # noqa: F401
    finally:
        del sys.modules["sklearn"]


def use_threads(threads: int) -> None:
    """Let XGBoost, when called from this thread, and Arrow have so many threads.

    Ray sets OMP_NUM_THREADS=1 for a worker of less than two CPUs. XGBoost takes no more than OpenMP's default, whatever
    its own `nthread` says, and Arrow decodes with as many.
    """
    import xgboost as xgb

    pa.set_cpu_count(threads)
    xgb.core._LIB.omp_set_num_threads(threads)


def loss(booster: Any, data: Any, label: Any, target: Target) -> float:
    """The target's metric of a booster on a matrix with these labels; among many workers, on the rows of all of them.

    XGBoost's own depends in its last digit on how many threads the sum was dealt out to, and takes three times as long.
    Trees do not depend on them: their sums are those of float32 values in float64.
    """
    from xgboost import collective

    # Of a plain regression the margin is the prediction, and comes in a tenth of the time.
    plain = target.objective == "reg:squarederror"
    found = booster.predict(data, output_margin=plain) if len(label) else label
    # In pieces: what is larger than 32 MB the C library takes from the system, and gives back, each time.
    pieces = (slice(at, at + LOSS_ROWS) for at in range(0, len(label), LOSS_ROWS))
    sums = [losses(target, label[piece], found[piece]).sum() for piece in pieces]
    total, rows = collective.allreduce(np.array([sum(sums), len(label)], np.float64), collective.Op.SUM)
    return overall(target.metric, total / rows)


def load_model(data: bytes) -> Any:
    import xgboost as xgb

    booster = xgb.Booster()
    booster.load_model(bytearray(data))
    return booster


def predict(booster: Any, x: Any, features: Sequence[str]) -> Any:
    """Predictions as float32, (n,) or, of several classes, (n, classes) probabilities.

    Raises ValueError where the model knows other features.
    """
    import xgboost as xgb

    return booster.predict(xgb.DMatrix(x, feature_names=list(features), nthread=1))
