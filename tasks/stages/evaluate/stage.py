"""Score the untouched test slice with the mean, the linear baseline, the untuned model and the tuned one.

In: the splits (`label`, features), the clean reviews (for the texts of the worst errors), both models.

Out: predictions (`review_id`, `timestamp`, `rating`, `label`, `baseline`, `tuned`; for the target stars these are the
expected stars, and `tuned_1` to `tuned_5` the probabilities), `slices/` (`tasks.stages.evaluate.slices.SLICES`),
`calibration/` (`model`, `bin`, `rows`, mean `prediction` and `label`, `low` and `high` of the latter), `importance/`
(each feature's total `gain` in the trees, and its mean |SHAP| on a sample of test rows) and `worst/` (the largest
errors, with the beginnings of their texts). Facts: `rows`, `target`, `metric`, `train_mean`, `measures` {model:
{measure: value with its 95% interval}} and `calibration_error` {model: value}.

    raymill run --until evaluate
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.core.errors import InputError
from tasks.core.part_files import read_part
from tasks.core.snapshot_files import part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.domain.metrics import Measures, calibration_error
from tasks.domain.targets import TARGETS, Target
from tasks.engines import boosting, cluster
from tasks.stages.evaluate import scoring, slices
from tasks.stages.evaluate.settings import EvaluateConfig

TASK_ROWS = 100_000
WORST = pa.schema(
    [(name, pa.string()) for name in ("review_id", "category", "title", "text")]
    + [("timestamp", pa.timestamp("ms", tz="UTC"))]
    + [(name, pa.float32()) for name in ("rating", "label", "prediction")]
    + [("loss", pa.float64())]
)
IMPORTANCE = pa.schema([("feature", pa.string()), ("gain", pa.float64()), ("shap", pa.float64())])
CALIBRATION = pa.schema(
    [("model", pa.string()), ("bin", pa.int32()), ("rows", pa.int64())]
    + [(name, pa.float64()) for name in ("prediction", "label", "low", "high")]
)


@dataclass(frozen=True)
class Judged:
    """A model's scores on the test slice. slices: {name: (rows, the target's metric)}.

    difference: a rival's loss less this model's, row by row, where there is a rival.
    """

    rows: int
    measures: Measures
    slices: dict[str, tuple[int, float]]
    difference: scoring.Difference | None = None


@stage(version=2, config=EvaluateConfig, libraries=("xgboost", "numpy", "polars"))
def evaluate(
    splits: Snapshot,
    reviews: Snapshot,
    baseline: Snapshot,
    model: Snapshot,
    config: EvaluateConfig,
    out: SnapshotWriter,
) -> None:
    target = TARGETS[splits.facts["target"]]
    rows = splits.rows("test")
    models = {"baseline": model_bytes(baseline), "tuned": model_bytes(model)}
    job = scoring.Job(
        target,
        models,
        config,
        mean=mean_label([*splits.files("train"), *splits.files("valid")], target),
        linear=splits.facts.get("linear"),
        repeats=repeats(splits),
        shap_of="tuned",
        sample=tuple(np.unique(np.linspace(0, rows - 1, min(rows, config.shap_rows)).astype(int)).tolist()),
        sink=out.sink,
    )
    scored, measures, bins, _ = score(splits, job)
    out.add(one.entry for one in scored)
    sums = slices.add_up(one.sums for one in scored)
    out.write_table(part_name(0, "slices"), slices.table(sums, target.metric, config))
    numbered = [{"model": m, "bin": i, **b} for m, of_model in bins.items() for i, b in enumerate(of_model)]
    out.write_table(part_name(0, "calibration"), pa.Table.from_pylist(numbered, CALIBRATION))
    out.write_table(part_name(0, "importance"), importance(models["tuned"], scored))
    worst = scoring.worst(pl.concat([one.worst for one in scored]), config.worst)
    out.write_table(part_name(0, "worst"), with_texts(worst, reviews), WORST)
    out.count(rows_scored=rows)
    out.fact(
        rows=rows,
        target=target.name,
        metric=target.metric,
        train_mean=job.mean,
        measures=measures,
        calibration_error={m: calibration_error(of_model) for m, of_model in bins.items()},
    )


def judge(splits: Snapshot, data: bytes, config: EvaluateConfig, rival: bytes | None = None) -> Judged:
    """Score any model (XGBoost's UBJ bytes) on the test slice, on Ray, beside a rival; nothing is written.

    Raises RunError if the splits lack one of its features, or its predictions are not the target's.
    """
    target = TARGETS[splits.facts["target"]]
    models = {"model": data} if rival is None else {"model": data, "rival": rival}
    pair = None if rival is None else ("rival", "model")
    job = scoring.Job(target, models, config, repeats=repeats(splits), pair=pair)
    scored, measures, _, difference = score(splits, job)
    sums = slices.add_up(one.sums for one in scored)
    by_slice = slices.metric_by_slice(sums, "model", target.metric, config)
    return Judged(splits.rows("test"), measures["model"], by_slice, difference)


def model_bytes(model: Snapshot) -> bytes:
    return model.path("model.ubj").read_bytes()


def score(
    splits: Snapshot, job: scoring.Job
) -> tuple[list[scoring.Scored], dict[str, Measures], dict[str, Any], scoring.Difference | None]:
    """Score the whole test slice; returns each file's results, and what `measure_models` makes of all.

    Ray tasks score runs of files, and one more task measures their predictions.
    """
    import ray

    if not splits.rows("test"):
        raise InputError("the test slice is empty", where="evaluate", fix="give more data, or change the split")
    shared = ray.put(job)
    score_files = ray.remote(scoring.score_files).options(num_returns=2)
    results, columns = zip(*(score_files.remote(parts, shared) for parts in batched(splits)), strict=True)
    measured = ray.remote(scoring.measure_models).remote(job.target, job.config, job.pair, *columns)
    scored = [one for batch in cluster.gather(results) for one in batch]
    ((measures, bins, difference),) = cluster.gather([measured])
    return scored, measures, bins, difference


def batched(splits: Snapshot) -> Iterator[list[scoring.Part]]:
    """Group the test slice's files into runs of about TASK_ROWS rows."""
    batch: list[scoring.Part] = []
    rows = first = 0
    for index, entry in enumerate(splits.entries("test")):
        batch.append(scoring.Part(index, splits.root / entry.name, first))
        first, rows = first + (entry.rows or 0), rows + (entry.rows or 0)
        if rows >= TASK_ROWS:
            yield batch
            batch, rows = [], 0
    if batch:
        yield batch


def mean_label(files: Sequence[Path], target: Target) -> float | list[float]:
    """Compute the mean label of these files, or for several classes the share of each."""
    import ray

    add = ray.remote(_label_sums)
    rows, *sums = np.sum(cluster.gather(add.remote(f, target.classes) for f in files), axis=0).tolist()
    return [s / rows for s in sums] if target.classes > 1 else sums[0] / rows


def _label_sums(file: Path, classes: int) -> list[float]:
    """Return the number of rows, then the sum of the labels or the rows of each class."""
    label = read_part(file, ["label"])["label"].to_numpy()
    sums = np.bincount(label.astype(np.intp), minlength=classes) if classes > 1 else [label.sum(dtype=np.float64)]
    return [float(len(label)), *map(float, sums)]


def repeats(splits: Snapshot) -> tuple[str, ...]:
    """List the ids of the test reviews whose text nearly repeats an earlier slice's."""
    if not splits.files("near_duplicates"):
        return ()
    near_duplicates = pl.DataFrame(splits.read("near_duplicates", ["review_id", "slice"]))
    return tuple(near_duplicates.filter(pl.col("slice") == "test")["review_id"])


def importance(model: bytes, scored: Sequence[scoring.Scored]) -> pa.Table:
    """List the features with their gain and mean |SHAP|, the largest SHAP first."""
    booster = boosting.load_model(model)
    gain = booster.get_score(importance_type="total_gain")
    sampled = sum(one.sampled for one in scored)
    shap = {n: sum(one.shap.get(n, 0.0) for one in scored) / sampled for n in booster.feature_names}
    ranked = sorted(shap, key=lambda n: (-shap[n], -gain.get(n, 0.0), n))
    rows = [{"feature": n, "gain": float(gain.get(n, 0.0)), "shap": shap[n]} for n in ranked]
    return pa.Table.from_pylist(rows, IMPORTANCE)


def with_texts(worst: pl.DataFrame, reviews: Snapshot) -> pa.Table:
    """Add title and text to the worst rows, in order."""
    import ray

    find = ray.remote(scoring.texts_of)
    ids = worst["review_id"].to_list()
    texts = pl.concat(cluster.gather(find.remote(file, ids) for file in reviews.files()))
    joined = worst.join(texts, on="review_id", how="left", maintain_order="left")
    return joined.select(WORST.names).to_arrow()
