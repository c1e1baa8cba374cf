"""The untouched test slice, scored by three models: predict-the-mean, the untuned baseline and the tuned model.

Out: predictions (`review_id`, `timestamp`, `rating`, `baseline`, `tuned`), `importance/` (gain per feature), `slices/`
(rows and RMSE by stars, category, text length, new or known user and item), and as facts RMSE and MAE of each model.
Errors are added up per file in Ray tasks; the driver sees sums.

    raymill run --until evaluate
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.core.settings import EvaluateConfig
from tasks.core.snapshots import FileEntry, FileSink, Snapshot, SnapshotWriter, part_name
from tasks.core.stage import stage
from tasks.engines import boosting, cluster

TASK_ROWS = 100_000
MODELS = ("mean", "baseline", "tuned")
SLICES = pa.schema([("slice", pa.string()), ("rows", pa.int64()), *((f"rmse_{m}", pa.float64()) for m in MODELS)])
Sums = dict[str, Counter[str]]  # slice: {"rows", "se_MODEL" sum of squared errors, "ae_MODEL" sum of absolute ones}


@stage(version=1, libraries=("xgboost",))
def evaluate(
    splits: Snapshot, baseline: Snapshot, model: Snapshot, config: EvaluateConfig, out: SnapshotWriter
) -> None:
    import ray

    names = splits.facts["features"]
    mean = mean_rating([*splits.files("train"), *splits.files("valid")])
    models = ray.put({"baseline": model_bytes(baseline), "tuned": model_bytes(model)})
    score = ray.remote(score_files)
    batches = cluster.gather(
        score.remote(out.sink, files, models, names, mean, config) for files in batched(splits.entries("test"), splits)
    )
    scored = [one for batch in batches for one in batch]
    sums = add_up(s for _, s in scored)
    out.add(entry for entry, _ in scored)
    write_slices(sums, config, out)
    write_importance(boosting.load_model(model_bytes(model)), names, out)
    whole = sums["all"]
    out.count(rows_scored=whole["rows"])
    out.fact(
        rows=int(whole["rows"]),
        train_mean=mean,
        rmse={m: float((whole[f"se_{m}"] / whole["rows"]) ** 0.5) for m in MODELS},
        mae={m: float(whole[f"ae_{m}"] / whole["rows"]) for m in MODELS},
    )


def model_bytes(model: Snapshot) -> bytes:
    return model.path("model.ubj").read_bytes()


def mean_rating(files: Sequence[Path]) -> float:
    import ray

    add = ray.remote(_rating_sum)
    sums = cluster.gather(add.remote(f) for f in files)
    return float(sum(total for total, _ in sums) / sum(rows for _, rows in sums))


def _rating_sum(file: Path) -> tuple[float, int]:
    ratings = pl.read_parquet(file, columns=["rating"], hive_partitioning=False)["rating"].cast(pl.Float64)
    return float(ratings.sum()), len(ratings)


def batched(entries: Sequence[FileEntry], splits: Snapshot) -> Iterator[list[tuple[int, Path]]]:
    """Numbered files in runs of about TASK_ROWS rows: XGBoost's import costs a task more than small files do."""
    batch: list[tuple[int, Path]] = []
    rows = 0
    for index, entry in enumerate(entries):
        batch.append((index, splits.root / entry.name))
        rows += entry.rows or 0
        if rows >= TASK_ROWS:
            yield batch
            batch, rows = [], 0
    if batch:
        yield batch


def score_files(sink: FileSink, files: list[tuple[int, Path]], *arguments: Any) -> list[tuple[FileEntry, Sums]]:
    return [score_file(sink, index, file, *arguments) for index, file in files]


def score_file(
    sink: FileSink,
    index: int,
    file: Path,
    models: dict[str, bytes],
    names: Sequence[str],
    mean: float,
    config: EvaluateConfig,
) -> tuple[FileEntry, Sums]:
    """Predictions of one file, written, and its sums of errors by slice."""
    rows = pl.read_parquet(file, hive_partitioning=False)
    x, _ = boosting.arrays(rows.to_arrow(), names)
    predicted = {name: boosting.predict(boosting.load_model(data), x, names) for name, data in models.items()}
    kept = rows.select("review_id", "timestamp", "rating").with_columns(
        **{name: pl.Series(p, dtype=pl.Float32) for name, p in predicted.items()}
    )
    errors = {"mean": np.full(len(rows), mean), **predicted}
    deviation = {m: errors[m].astype(np.float64) - rows["rating"].to_numpy() for m in MODELS}
    return sink.write_table(part_name(index), kept.to_arrow()), sums_by_slice(rows, deviation, config)


def sums_by_slice(rows: pl.DataFrame, deviation: dict[str, Any], config: EvaluateConfig) -> Sums:
    labels = rows.select(
        all=pl.lit("all"),
        stars=pl.format("stars {}", pl.col("rating").round().cast(pl.Int8)),
        category=pl.format("category {}", pl.col("category").fill_null("unknown")),
        length=pl.when(pl.col("n_chars") < config.short_chars)
        .then(pl.lit(f"text under {config.short_chars} characters"))
        .otherwise(pl.lit(f"text of {config.short_chars} characters and more")),
        user=pl.when(pl.col("user_count") == 0).then(pl.lit("new user")).otherwise(pl.lit("known user")),
        item=pl.when(pl.col("item_count") == 0).then(pl.lit("new item")).otherwise(pl.lit("known item")),
    )
    terms = {"rows": np.ones(len(rows))}
    for name, d in deviation.items():
        terms |= {f"se_{name}": d**2, f"ae_{name}": np.abs(d)}
    frame = pl.DataFrame(terms)
    sums: Sums = {}
    for column in labels:
        for record in frame.group_by(column.rename("slice")).agg(pl.all().sum()).to_dicts():
            sums[record.pop("slice")] = Counter(record)
    return sums


def add_up(parts: Iterable[Sums]) -> Sums:
    total: Sums = defaultdict(Counter)
    for part in parts:
        for name, sums in part.items():
            total[name].update(sums)
    return total


def write_slices(sums: Sums, config: EvaluateConfig, out: SnapshotWriter) -> None:
    """Slices by name; the smallest categories are left to the whole."""
    categories = sorted((n for n in sums if n.startswith("category ")), key=lambda n: (-sums[n]["rows"], n))
    left_out = set(categories[config.categories :]) | {"all"}
    records = [
        (name, int(s["rows"]), *(float((s[f"se_{m}"] / s["rows"]) ** 0.5) for m in MODELS))
        for name, s in sorted(sums.items())
        if name not in left_out
    ]
    table = pa.table([list(c) for c in zip(*records, strict=True)], names=SLICES.names)
    out.write_table(part_name(0, "slices"), table, SLICES)


def write_importance(booster: Any, names: Sequence[str], out: SnapshotWriter) -> None:
    gain = booster.get_score(importance_type="gain")
    ranked = sorted(((float(gain.get(n, 0.0)), n) for n in names), reverse=True)
    table = pa.table({"feature": [n for _, n in ranked], "gain": [g for g, _ in ranked]})
    out.write_table(part_name(0, "importance"), table)
