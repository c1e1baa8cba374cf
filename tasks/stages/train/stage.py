"""Slices in, an XGBoost model out, trained data-parallel on Ray Train.

`train` makes the untuned baseline from the train slice and the parameters in conf, and stops where the validation slice
says so; `refit` makes the final model from train and validation slices together, with the parameters and rounds that
the search found. Out: `model.ubj` (XGBoost's own format, never pickle), cut to its best round, and the learning curve
of all rounds (`round`, `split`, `loss`, in the metric of the target). Facts: `target`, `metric`, `params`, `rounds`,
`features`, `loss` {slice: of the model as it is}.

    raymill run --until refit
"""

from __future__ import annotations

import shutil
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import WithJsonSchema

from tasks.core.errors import InputError
from tasks.core.sections import Positive, Section
from tasks.core.snapshot_files import part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.domain.targets import TARGETS, Target
from tasks.engines import boosting, ray_train

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
            "the validation slice is empty, and early stopping is to watch it",
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
    found: dict[str, Any],
    rounds: int,
    patience: int | None,
    config: TrainConfig,
    out: SnapshotWriter,
) -> None:
    """Train on the slices `learn`, with the parameters of conf under those that a search `found`."""
    target = TARGETS[splits.facts["target"]]
    check_labels(splits, learn, target)
    job = ray_train.TrainJob(
        train=tuple(f for name in learn for f in splits.files(name)),
        valid=tuple(f for name in watch for f in splits.files(name)),
        features=tuple(splits.facts["features"]),
        target=target.name,
        params={**config.params, **found},
        seed=config.seed,
        rounds=rounds,
        folder=out.scratch,
        patience=patience,
        checkpoint_every=config.checkpoint_rounds,
        threads=config.nthread,
        external_memory=config.external_memory,
        device=ray_train.device(config.device),
    )
    done = ray_train.fit(job, config.workers or ray_train.worth_having(job))
    shutil.rmtree(out.scratch, ignore_errors=True)
    named = {"train": "+".join(learn), "valid": "valid"}
    rows = [(i, named[name], v) for name, curve in done.curves.items() for i, v in enumerate(curve)]
    out.write_bytes("model.ubj", done.model)
    out.write_table(part_name(0), pa.table(list(map(list, zip(*rows, strict=True))), names=CURVE.names), CURVE)
    out.fact(
        target=target.name,
        metric=target.metric,
        params={**job.params, "seed": job.seed},
        rounds=done.rounds,
        features=list(job.features),
        loss={name: curve[done.rounds - 1] for name, curve in done.curves.items()},
    )
    out.note(device=job.device, resumed_from_round=done.resumed_from, seconds=done.seconds)


def check_labels(splits: Snapshot, learn: tuple[str, ...], target: Target) -> None:
    """Raise InputError where there is nothing to learn: no rows, or labels that are all the same."""
    where, slices = "train", " and ".join(learn)
    extremes = boosting.label_range([f for name in learn for f in splits.files(name)])
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
