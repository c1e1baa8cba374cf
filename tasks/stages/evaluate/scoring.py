"""The Ray tasks of evaluation: score files of the test slice with models, then measure all of them.

Only small results return to the driver: sums by slice, sums of SHAP values, the worst rows. Labels and predictions, 4
bytes each, go to the one task that measures all (`measure_models`), never through the driver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.core.errors import RunError
from tasks.core.part_files import read_part, scan_parts
from tasks.core.snapshot_files import FileEntry, FileSink, part_name
from tasks.domain.losses import losses
from tasks.domain.metrics import Measures, calibration, expected, measure
from tasks.domain.targets import Target
from tasks.engines import boosting
from tasks.stages.evaluate import slices
from tasks.stages.evaluate.settings import EvaluateConfig

Array = np.ndarray[Any, Any]
Columns = dict[str, Array]  # "label" and each model's prediction, (n,) or (n, classes) float32
EXCERPT_CHARS = 300


@dataclass(frozen=True)
class Job:
    """The inputs of scoring that all files share.

    models: boosters as bytes by name. mean: the mean label, or for several classes the share of each. linear: the
    column of the linear baseline's prediction, or None. repeats: ids of near-duplicate reviews. shap_of: the explained
    model, "" for none. sample: the rows it is explained on, numbered through the whole slice. sink: where predictions
    are written, None for nowhere.
    """

    target: Target
    models: Mapping[str, bytes]
    config: EvaluateConfig
    mean: Any = None
    linear: str | None = None
    repeats: tuple[str, ...] = ()
    shap_of: str = ""
    sample: tuple[int, ...] = ()
    sink: FileSink | None = None
    pair: tuple[str, str] | None = None  # two models whose losses are compared row by row


@dataclass(frozen=True)
class Difference:
    """The first model's loss less the second's, paired by row: the mean and its standard error."""

    rows: int
    mean: float
    error: float


@dataclass(frozen=True)
class Part:
    """One file of the test slice: its index among the files, and the number of its first row."""

    index: int
    file: Path
    first: int


@dataclass(frozen=True)
class Scored:
    """One file's results for the driver. shap: {feature: sum of |SHAP| over the sampled rows}, and their number.

    worst: the rows with the largest losses of the explained model.
    """

    entry: FileEntry | None
    sums: slices.Sums
    shap: dict[str, float]
    sampled: int
    worst: pl.DataFrame


def score_files(parts: Sequence[Part], job: Job) -> tuple[list[Scored], list[Columns]]:
    """Score several files in one task: importing XGBoost takes longer than small files do."""
    boosters = {name: boosting.load_model(data) for name, data in job.models.items()}
    scored = [score_file(part, boosters, job) for part in parts]
    return [result for result, _ in scored], [columns for _, columns in scored]


def score_file(part: Part, boosters: Mapping[str, Any], job: Job) -> tuple[Scored, Columns]:
    rows = read_part(part.file)
    label = rows["label"].to_numpy()
    predicted = {name: predict(booster, rows, job.target) for name, booster in boosters.items()}
    rivals: Columns = {}
    if job.mean is not None:
        rivals["mean"] = np.broadcast_to(np.asarray(job.mean, np.float32), (len(rows), *np.shape(job.mean)))
    if job.linear is not None:
        rivals["linear"] = linear_prediction(rows, job)
    lost = {
        name: losses(job.target, label, p)
        for name, p in {**rivals, **predicted}.items()
        if job.target.classes == 1 or p.ndim == 2
    }
    shap, sampled = explained(rows, part.first, boosters, job)
    entry = None
    if job.sink:
        table = predictions(rows, predicted, job.target).to_arrow()
        entry = job.sink.write_table(part_name(part.index), table)
    result = Scored(
        entry,
        slices.add_losses(rows, lost, job.repeats, job.config),
        shap,
        sampled,
        worst_rows(rows, predicted, lost, job) if job.shap_of else pl.DataFrame(),
    )
    return result, {"label": label, **rivals, **predicted}


def predict(booster: Any, rows: pl.DataFrame, target: Target) -> Array:
    """Predict (n,) or (n, classes) float32 from the columns that the booster names.

    Raises RunError for a missing column, for a model of another target, and for predictions that are not finite.
    """
    names = list(booster.feature_names or [])
    if missing := [name for name in names if name not in rows.columns]:
        raise RunError(
            f"the model was trained on features that are not in the splits: {', '.join(missing[:5])}",
            where="evaluate",
            fix="train a model on these splits",
        )
    x = rows.select(pl.col(names).cast(pl.Float32)).to_numpy()
    prediction: Array = boosting.predict(booster, x, names)
    if prediction.shape[1:] != ((target.classes,) if target.classes > 1 else ()):
        raise RunError(
            f"the shape of the model's predictions, {prediction.shape}, does not fit the target {target.name!r}",
            where="evaluate",
            fix="it was trained for another target",
        )
    if not np.isfinite(prediction).all():
        raise RunError("the model predicts values that are not finite", where="evaluate", fix="check train.params")
    return prediction


def linear_prediction(rows: pl.DataFrame, job: Job) -> Array:
    """Return the linear baseline's (n,) float32 predictions, clipped to the target's range; the mean where null."""
    several = job.target.classes > 1
    mean = float(expected(job.target, np.atleast_2d(job.mean))[0]) if several else float(job.mean)
    low, high = (1, job.target.classes) if several else (job.target.low, job.target.high)
    return rows[str(job.linear)].cast(pl.Float32).fill_nan(None).fill_null(mean).clip(low, high).to_numpy()


def predictions(rows: pl.DataFrame, predicted: Columns, target: Target) -> pl.DataFrame:
    """Make the table of ids, labels and predictions in the target's unit; for stars also the tuned probabilities."""
    columns = {name: expected(target, p) for name, p in predicted.items()}
    if target.classes > 1:
        columns |= {f"tuned_{i + 1}": predicted["tuned"][:, i] for i in range(target.classes)}
    return rows.select("review_id", "timestamp", "rating", "label").with_columns(
        **{name: pl.Series(p, dtype=pl.Float32) for name, p in columns.items()}
    )


def explained(rows: pl.DataFrame, first: int, boosters: Mapping[str, Any], job: Job) -> tuple[dict[str, float], int]:
    """Sum |SHAP| by feature over the sampled rows in this file; returns the sums and the number of rows.

    In the unit of the model's margin: the target's own, or log odds; summed over classes.
    """
    sampled = [i - first for i in job.sample if first <= i < first + len(rows)]
    if not sampled or not job.shap_of:
        return {}, 0
    import xgboost as xgb

    booster = boosters[job.shap_of]
    names = list(booster.feature_names)
    x = rows[sampled].select(pl.col(names).cast(pl.Float32)).to_numpy()
    shares = np.abs(booster.predict(xgb.DMatrix(x, feature_names=names, nthread=1), pred_contribs=True))
    # The last column is the bias: it explains no row.
    sums = shares.reshape(-1, len(names) + 1).sum(axis=0, dtype=np.float64)[:-1]
    return dict(zip(names, sums.tolist(), strict=True)), len(sampled)


def worst_rows(rows: pl.DataFrame, predicted: Columns, lost: Mapping[str, Array], job: Job) -> pl.DataFrame:
    """Select the rows with the explained model's largest losses, without their texts."""
    return worst(
        rows.select("review_id", "category", "timestamp", "rating", "label").with_columns(
            prediction=pl.Series(expected(job.target, predicted[job.shap_of]), dtype=pl.Float32),
            loss=pl.Series(lost[job.shap_of], dtype=pl.Float64),
        ),
        job.config.worst,
    )


def worst(rows: pl.DataFrame, limit: int) -> pl.DataFrame:
    return rows.sort(["loss", "review_id"], descending=[True, False]).head(limit)


def texts_of(file: Path, ids: Sequence[str]) -> pl.DataFrame:
    """Read `review_id`, `title` and the beginning of `text` of these reviews from one file of reviews."""
    reviews = scan_parts([file]).filter(pl.col("review_id").is_in(list(ids)))
    long = pl.col("text").str.len_chars() > EXCERPT_CHARS
    cut = pl.when(long).then(pl.col("text").str.head(EXCERPT_CHARS - 1) + "…").otherwise("text")
    return reviews.select("review_id", "title", text=cut).collect()


def measure_models(
    target: Target, config: EvaluateConfig, pair: tuple[str, str] | None, *batches: list[Columns]
) -> tuple[dict[str, Measures], dict[str, list[dict[str, float]]], Difference | None]:
    """Measure each model on all rows, with intervals; returns this, the trained ones' calibration, and the `pair`'s."""
    parts = [columns for batch in batches for columns in batch]
    label = np.concatenate([columns["label"] for columns in parts])
    measures, bins = {}, {}
    for name in [name for name in parts[0] if name != "label"]:
        prediction = np.concatenate([columns[name] for columns in parts])
        measures[name] = measure(target, label, prediction, config.resamples, config.seed)
        if name not in ("mean", "linear"):
            bins[name] = calibration(target, label, prediction)
    return measures, bins, paired(target, label, parts, pair) if pair else None


def paired(target: Target, label: Array, parts: Sequence[Columns], pair: tuple[str, str]) -> Difference:
    first, second = (losses(target, label, np.concatenate([columns[name] for columns in parts])) for name in pair)
    differences = first - second
    error = differences.std(ddof=1) / len(label) ** 0.5 if len(label) > 1 else np.inf
    return Difference(len(label), float(differences.mean()), float(error))
