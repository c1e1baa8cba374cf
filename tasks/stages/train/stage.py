"""Train an XGBoost model on the slices, data-parallel on Ray Train.

`train` fits the untuned baseline to the train slice with the parameters in conf, and stops early by the loss of the
validation slice. `refit` fits the final model to train and validation slices together, with the search's best
parameters and rounds. Out: `model.ubj` (XGBoost's own format, never pickle), cut to its best round, and the learning
curve of all rounds (`round`, `split`, `loss`, in the metric of the target). Facts: `target`, `metric`, `params`,
`rounds`, `features`, `loss` {slice: loss of the cut model}.

    raymill run --until refit
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import WithJsonSchema

from tasks.core.errors import InputError, SettingsError
from tasks.core.sections import Positive, Section
from tasks.core.snapshot_files import part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.domain.targets import TARGETS, Target
from tasks.engines import ray_train
from tasks.engines.feature_files import label_range
from tasks.engines.train_job import TrainJob

CURVE = pa.schema([("round", pa.int32()), ("split", pa.string()), ("loss", pa.float64())])


# Lists and mappings are for constraints alone, see tasks/domain/constraints.py.
ParamValue = Annotated[
    float | int | str | dict[str, int] | list[list[int | str]] | list[int],
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}]}),
]


class TrainConfig(Section):
    workers: Positive | None
    nthread: Positive | None
    device: Literal["auto", "cpu", "cuda"]
    external_memory: bool
    rounds: Positive
    early_stopping_rounds: Positive | None
    checkpoint_rounds: Positive | None
    params: dict[str, ParamValue]
    seed: int


def rounds(model: Snapshot) -> int:
    return int(model.facts["rounds"])


@stage(version=2, config=TrainConfig, unit="rounds", size=rounds, libraries=("xgboost",))
def train(splits: Snapshot, config: TrainConfig, out: SnapshotWriter) -> None:
    watch = ("valid",) if splits.rows("valid") else ()
    if not watch and config.early_stopping_rounds is not None:
        raise InputError(
            "the validation slice is empty, but early stopping needs it",
            where="train",
            fix="give more data, make split.valid larger, or set train.early_stopping_rounds=null",
        )
    fit(splits, ("train",), watch, {}, config.rounds, config.early_stopping_rounds, config, out)


@stage(version=2, config=TrainConfig, section="train", unit="rounds", size=rounds, libraries=("xgboost",))
def refit(splits: Snapshot, search: Snapshot, config: TrainConfig, out: SnapshotWriter) -> None:
    facts = search.facts
    fit(splits, ("train", "valid"), (), facts["best_params"], facts["best_rounds"], None, config, out)


def fit(
    splits: Snapshot,
    learn: tuple[str, ...],
    watch: tuple[str, ...],
    tuned: dict[str, Any],
    rounds: int,
    patience: int | None,
    config: TrainConfig,
    out: SnapshotWriter,
) -> None:
    """Train on the slices `learn`, with the parameters in conf, overridden by those that a search `tuned`."""
    target = TARGETS[splits.facts["target"]]
    check_labels(splits, learn, target)
    params = {**config.params, **tuned}
    begin = params.pop("begin", "mean")  # of a search; the untuned model begins from the mean
    job = TrainJob(
        train=tuple(f for name in learn for f in splits.files(name)),
        valid=tuple(f for name in watch for f in splits.files(name)),
        features=tuple(splits.facts["features"]),
        target=target.name,
        params=params,
        seed=config.seed,
        rounds=rounds,
        folder=out.scratch,
        patience=patience,
        checkpoint_every=config.checkpoint_rounds,
        threads=config.nthread,
        external_memory=config.external_memory,
        device=device_of(config),
        begin=splits.facts["linear"] if begin == "linear" else None,
    )
    done = ray_train.fit(job, config.workers or ray_train.worth_having(job))
    named = {"train": "+".join(learn), "valid": "valid"}
    rows = [(i, named[name], v) for name, curve in done.curves.items() for i, v in enumerate(curve)]
    out.write_bytes("model.ubj", done.model)
    out.write_table(part_name(0), pa.table(list(map(list, zip(*rows, strict=True))), names=CURVE.names), CURVE)
    out.fact(
        target=target.name,
        metric=target.metric,
        params={**job.params, "begin": begin, "seed": job.seed},
        rounds=done.rounds,
        features=list(job.features),
        loss={name: curve[done.rounds - 1] for name, curve in done.curves.items()},
    )
    out.note(device=job.device, resumed_from_round=done.resumed_from, seconds=done.seconds)


def device_of(config: TrainConfig) -> Literal["cpu", "cuda"]:
    """Raises SettingsError for external memory on a GPU: XGBoost wants its batches there, and ours are on the CPU."""
    device = ray_train.device(config.device)
    if device == "cuda" and config.external_memory:
        if config.device == "cuda":
            raise SettingsError(
                "external memory is read on the CPU",
                where="train.device and train.external_memory",
                fix="train.device=auto or cpu, or train.external_memory=false",
            )
        return "cpu"
    return device


def check_labels(splits: Snapshot, learn: tuple[str, ...], target: Target) -> None:
    """Raise InputError if there is nothing to learn: no labels, or labels that are all the same."""
    where, slices = "train", " and ".join(learn)
    extremes = label_range([f for name in learn for f in splits.files(name)])
    if extremes is None:
        raise InputError(
            f"no review of the slices {slices} has a label for the target {target.name}",
            where=where,
            fix="choose another features.target, or give more data",
        )
    low, high = extremes
    if low == high:
        what = "value" if target.is_regression else "class"
        raise InputError(
            f"the target {target.name} ({target.says}) has one {what} only, {low:g}, in {slices}: nothing to learn",
            where=where,
            fix="choose another features.target, or give reviews that differ",
        )
