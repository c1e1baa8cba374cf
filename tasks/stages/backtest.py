"""Score a night's model and those of all earlier nights, on the same rows, for `raymill rehearse`.

In: the night's splits and features, and the models. Out, the loss of each row by each model, `night_0000` and so on
(float32; `tasks.domain.losses`):

- main table: the test slice (`review_id`), by all models: what the gates compare
- `arrived/`: the reviews that arrived since the night before (`review_id`, `timestamp`), by the earlier nights' models:
  what a champion would have cost
- `slices/`: each model's metric on each slice of the test rows (`night`, `slice`, `rows`, `loss`)

Facts: `target`, `metric`, `rows`, `mean` and `linear` (the baselines' metric), `losses` {night: metric},
`differences` {night: [mean, standard error] of tonight's loss less that night's, row by row}, and `months` {month:
{rows, sums {night: sum of losses}}} of the arrived reviews.

    raymill rehearse --nights 30
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.core.digests import digest_of
from tasks.core.part_files import read_part
from tasks.core.snapshot_files import FileEntry, part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.domain.losses import losses, overall
from tasks.domain.targets import TARGETS
from tasks.engines import boosting, cluster
from tasks.stages.evaluate import scoring, slices
from tasks.stages.evaluate.settings import EvaluateConfig
from tasks.stages.evaluate.stage import mean_label, model_bytes, repeats

ARRIVED = "arrived"
MONTH = "%Y-%m"
SLICES = pa.schema([("night", pa.int32()), ("slice", pa.string()), ("rows", pa.int64()), ("loss", pa.float64())])
Losses = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Models:
    """The models of the nights until tonight, by night, and the time (ms) from which tonight's reviews arrived.

    A stage takes it in place of a snapshot.
    """

    models: Mapping[int, Snapshot]
    since: int
    stage: str = "models"
    key: str = ""

    @property
    def digest(self) -> str:
        return digest_of([self.since, [[night, model.digest] for night, model in sorted(self.models.items())]])


@dataclass
class Sums:
    """What can be added up over files: for each pair with tonight's model the sums of differences and their squares."""

    by_slice: slices.Sums = field(default_factory=dict)
    differences: dict[str, tuple[float, float]] = field(default_factory=dict)
    months: dict[str, Counter[str]] = field(default_factory=dict)


@stage(
    version=1,
    config=EvaluateConfig,
    section="evaluate",
    libraries=("xgboost", "numpy", "polars"),
    flow="rehearse",
)
def backtest(splits: Snapshot, table: Snapshot, models: Models, config: EvaluateConfig, out: SnapshotWriter) -> None:
    import ray

    target = TARGETS[splits.facts["target"]]
    job = scoring.Job(
        target,
        {name_of(night): model_bytes(model) for night, model in sorted(models.models.items())},
        config,
        mean=mean_label([*splits.files("train"), *splits.files("valid")], target),
        linear=splits.facts.get("linear"),
        repeats=repeats(splits),
        sink=out.sink,
    )
    shared = ray.put(job)
    test, arrived = ray.remote(score_test), ray.remote(score_arrived)
    done = cluster.gather(
        [
            *(test.remote(i, file, shared) for i, file in enumerate(splits.files("test"))),
            *(arrived.remote(i, file, models.since, shared) for i, file in enumerate(table.files())),
        ]
    )
    out.side_table(ARRIVED, "slices")
    out.add(entry for entry, _ in done)
    report(out, splits, target.metric, [sums for _, sums in done], config)


def name_of(night: int) -> str:
    return f"night_{night:04d}"


def night_of(name: str) -> int:
    return int(name.removeprefix("night_"))


def loss_of(rows: pl.DataFrame, job: scoring.Job, names: Sequence[str]) -> Losses:
    """Compute the losses of these models, (n,) float64 each."""
    label = rows["label"].to_numpy()
    boosters = {name: boosting.load_model(job.models[name]) for name in names}
    predicted = {name: scoring.predict(booster, rows, job.target) for name, booster in boosters.items()}
    return {name: losses(job.target, label, prediction) for name, prediction in predicted.items()}


def baselines(rows: pl.DataFrame, job: scoring.Job) -> Losses:
    label, target = rows["label"].to_numpy(), job.target
    mean = np.broadcast_to(np.asarray(job.mean, np.float32), (len(rows), *np.shape(job.mean)))
    found = {"mean": losses(target, label, mean)}
    if job.linear is not None and target.classes == 1:
        found["linear"] = losses(target, label, scoring.linear_prediction(rows, job))
    return found


def score_test(index: int, file: Path, job: scoring.Job) -> tuple[FileEntry, Sums]:
    """Score a file of the test slice by all models, and sum up by slice."""
    rows = read_part(file)
    lost = loss_of(rows, job, list(job.models))
    latest = max(lost)
    apart = {name: lost[latest] - loss for name, loss in lost.items() if name != latest}
    differences = {name: (float(d.sum()), float((d * d).sum())) for name, d in apart.items()}
    by_slice = slices.add_losses(rows, {**baselines(rows, job), **lost}, job.repeats, job.config)
    return written(index, "", rows.select("review_id"), lost, job), Sums(by_slice, differences)


def score_arrived(index: int, file: Path, since: int, job: scoring.Job) -> tuple[FileEntry, Sums]:
    """Score the reviews of a file that arrived since then, by the models of earlier nights, and sum up by month."""
    rows = read_part(file)
    rows = rows.filter((rows["timestamp"].dt.epoch("ms") >= since) & rows["label"].is_not_null())
    earlier = [name for name in job.models if name != max(job.models)]
    lost = loss_of(rows, job, earlier) if len(rows) else {name: np.zeros(0) for name in earlier}
    summed = pl.DataFrame({"rows": pl.ones(len(rows), pl.Int64, eager=True), **lost})
    by_month = summed.group_by(rows["timestamp"].dt.strftime(MONTH).alias("month")).agg(pl.all().sum())
    months = {record.pop("month"): Counter(record) for record in by_month.to_dicts()}
    return written(index, ARRIVED, rows.select("review_id", "timestamp"), lost, job), Sums(months=months)


def written(index: int, table: str, rows: pl.DataFrame, lost: Losses, job: scoring.Job) -> FileEntry:
    assert job.sink is not None
    with_losses = rows.with_columns(pl.Series(name, loss, dtype=pl.Float32) for name, loss in lost.items())
    return job.sink.write_table(part_name(index, table), with_losses.to_arrow())


def report(out: SnapshotWriter, splits: Snapshot, metric: str, sums: Sequence[Sums], config: EvaluateConfig) -> None:
    by_slice = slices.add_up(one.by_slice for one in sums)
    whole = by_slice[slices.WHOLE]
    rows = int(whole["rows"])
    of_model = {name: overall(metric, whole[name] / rows) for name in whole if name != "rows"}
    nights = [name for name in of_model if name.startswith("night_")]
    table = [
        {"night": night_of(name), "slice": where, "rows": n, "loss": loss}
        for name in nights
        for where, (n, loss) in slices.metric_by_slice(by_slice, name, metric, config).items()
    ]
    out.write_table(part_name(0, "slices"), pa.Table.from_pylist(table, SLICES))
    out.fact(
        target=splits.facts["target"],
        metric=metric,
        rows=rows,
        mean=of_model["mean"],
        linear=of_model.get("linear"),
        losses={name: of_model[name] for name in sorted(nights)},
        differences=_differences(sums, rows),
        months=_months(sums),
    )


def _differences(sums: Sequence[Sums], rows: int) -> dict[str, tuple[float, float]]:
    """Return the mean difference and its standard error, as `scoring.paired` does."""
    total: dict[str, np.ndarray[Any, Any]] = defaultdict(lambda: np.zeros(2))
    for one in sums:
        for name, pair in one.differences.items():
            total[name] += pair
    found = {}
    for name, (first, second) in sorted(total.items()):
        mean = first / rows
        variance = max(second - rows * mean**2, 0.0) / max(rows - 1, 1)
        found[name] = (float(mean), float((variance / rows) ** 0.5))
    return found


def _months(sums: Sequence[Sums]) -> dict[str, dict[str, Any]]:
    total = slices.add_up(one.months for one in sums)
    return {
        month: {"rows": int(counts["rows"]), "sums": {n: float(counts[n]) for n in sorted(counts) if n != "rows"}}
        for month, counts in sorted(total.items())
    }
