"""The work of the cases `partition` and `stream`: rows of 50 features scored as a registered model would score them.

`booster` is bound by computing: 300 trees of depth 6, one thread a worker. `lookups` is bound by memory: each value is
the address of a cell in a table of 64 MiB, larger than the caches, as looking up what is known of a user is. Rows,
model and table are made from a seed. Predictions are compared by an order-independent digest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.inputs import SEED, kept
from tasks.algorithms.splitmix import GOLDEN, mix
from tasks.parallel.chunks import Chunk
from tasks.parallel.partition_worker import Score

FEATURES = tuple(f"f{i:02}" for i in range(50))
COLUMNS = ("row", *FEATURES)
GROUP_ROWS = 2_048
FILE_ROWS = 131_072
TREES, DEPTH = 300, 6
TRAINED_ROWS = 20_000
CELLS = 1 << 24  # of float32
Digest = tuple[int, int]  # rows, and the sum modulo 2^64 of a hash of each row's number and prediction


def rows(count: int) -> list[Path]:
    """Return the files of `count` rows: `row` (int64) and 50 float32 features, in row groups of GROUP_ROWS."""
    folder = kept(f"scoring-{count}-{SEED}", partial(_write_rows, count))
    return sorted(folder.glob("*.parquet"))


def model() -> str:
    """Return the file of the booster."""
    return str(kept(f"scoring-model-{TREES}-{SEED}.ubj", _train))


def booster(model: str, threads: int = 1) -> Score:
    """Make the scorer that is bound by computing."""
    from tasks.engines import boosting

    boosting.import_xgboost()
    import xgboost as xgb

    loaded = xgb.Booster()
    loaded.load_model(model)
    loaded.set_param({"nthread": threads})
    boosting.use_threads(threads)

    def score(table: pa.Table) -> pa.Table:
        # Without a DMatrix: the same predictions in 0.83 of the time.
        predicted = loaded.inplace_predict(matrix_of(table), validate_features=False)
        return pa.table({"row": table["row"], "prediction": predicted})

    return score


def cells(count: int = CELLS) -> str:
    """Return the file of the table that `lookups` looks up."""
    return str(kept(f"scoring-cells-{count}-{SEED}.npy", partial(_write_cells, count)))


def lookups(cells: str) -> Score:
    """Make the scorer that is bound by memory. Workers map the same file, so they share its pages."""
    table_of = np.load(cells, mmap_mode="r")
    mask = np.uint32(len(table_of) - 1)

    def score(table: pa.Table) -> pa.Table:
        # The low bits of a float are as good as random.
        addresses = (matrix_of(table).view(np.uint32) * np.uint32(2654435761)) & mask
        return pa.table({"row": table["row"], "prediction": table_of[addresses].mean(axis=1, dtype=np.float32)})

    return score


def slowed(make: Callable[..., Score], arguments: tuple[Any, ...], marker: str, times: int) -> Score:
    """Make a scorer that takes the first worker to come here `times` as long, and the others once.

    It sleeps, as a slower machine would leave our cores alone.
    """
    score = make(*arguments)
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return score

    def slowly(table: pa.Table) -> pa.Table:
        began = time.perf_counter()
        scored = score(table)
        time.sleep((times - 1) * (time.perf_counter() - began))
        return scored

    return slowly


def killed(make: Callable[..., Score], arguments: tuple[Any, ...], at: str, marker: str) -> Score:
    """Make a scorer whose worker dies at the fault point `at`, once."""
    os.environ.update({"RAYMILL_KILL_AT": at, "RAYMILL_KILL_ONCE": marker})
    return make(*arguments)


def matrix_of(table: pa.Table) -> Any:
    """Return the features as float32, (rows, 50)."""
    x = np.empty((table.num_rows, len(FEATURES)), np.float32)
    for i, name in enumerate(FEATURES):
        x[:, i] = table[name].to_numpy()
    return x


def write_part(folder: str, chunk: Chunk, table: pa.Table) -> Digest:
    """Write a chunk's predictions to a file of its own, atomically; the receipt is their digest."""
    path = Path(folder) / f"part-{chunk.index:06d}.parquet"
    draft = path.with_suffix(f".{os.getpid()}.draft")
    pq.write_table(table, draft)
    draft.rename(path)
    return digest(table)


def digest(table: pa.Table) -> Digest:
    bits = table["prediction"].to_numpy().view(np.uint32).astype(np.uint64)
    hashed = mix(table["row"].to_numpy().astype(np.uint64) * np.uint64(GOLDEN) ^ bits)
    return table.num_rows, int(hashed.sum(dtype=np.uint64))


def added(digests: Iterable[Digest]) -> Digest:
    """Add up the digests of parts."""
    total, hashes = 0, 0
    for part_rows, part_hash in digests:
        total, hashes = total + part_rows, (hashes + part_hash) % (1 << 64)
    return total, hashes


def _write_cells(count: int, file: Path) -> None:
    with file.open("wb") as out:
        np.save(out, np.random.default_rng(SEED).random(count, dtype=np.float32))


def _made(first: int, count: int) -> Any:
    return np.random.default_rng([SEED, first]).normal(size=(len(FEATURES), count)).astype(np.float32)


def _write_rows(count: int, folder: Path) -> None:
    folder.mkdir(parents=True)
    for index, first in enumerate(range(0, count, FILE_ROWS)):
        n = min(FILE_ROWS, count - first)
        columns = {"row": np.arange(first, first + n), **dict(zip(FEATURES, _made(first, n), strict=True))}
        file = folder / f"rows-{index:04d}.parquet"
        pq.write_table(pa.table(columns), file, row_group_size=GROUP_ROWS, use_dictionary=False)


def _train(file: Path) -> None:
    import xgboost as xgb

    x = _made(-1 % (1 << 32), TRAINED_ROWS)
    noise = np.random.default_rng(SEED).normal(size=TRAINED_ROWS)
    y = x[:10].sum(axis=0) + 2 * np.sin(3 * x[10]) + x[11] * x[12] + noise
    data = xgb.QuantileDMatrix(x.T, y, feature_names=list(FEATURES))
    trained = xgb.train({"max_depth": DEPTH, "eta": 0.1, "seed": SEED, "nthread": 2}, data, TREES)
    file.write_bytes(bytes(trained.save_raw("ubj")))
