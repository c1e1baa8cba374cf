"""Slices in, the best hyper-parameters out: Ray Tune runs what a study suggests, several trials at once.

Trials learn on the train slice and are compared by the target's loss on the validation slice, on samples of both
(`tune.max_rows`), or on folds of both (`tasks.stages.tune.folds`); the test slice is not read. Where they have read
samples, the best of them, the `finalists`, learn from all rows, and the best of these is taken: more rows bear more
rounds and deeper trees, so a sample alone would choose too small a model (decision 017). The first round of a
trial that begins from the linear baseline repeats it: a best round of 1 says that no tree improved on it. Concurrent
trials end in an order of their own, so the search is not deterministic and its manifest says so. Trials are kept in
Optuna's storage, beside the attempt or in a database (`tune.storage`): a search that was killed goes on from there, and
several machines that run the same search in one database share its trials and come to the same output. The study is
named after the stage's key, so another space, other data or other code is another study.

Out: the trials and after them the finals (`trial`, `status`, `rounds`, `best_round`, `valid_loss`, `params`, and
`train_rows`, of the train slice), their curves (`curves/`: `trial`, `round`, `loss`), and as facts `target`, `metric`,
`best_trial`, `best_params`, `best_rounds`, `best_loss`.

    raymill run --until tune
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tasks.algorithms.sampling import stride
from tasks.core.errors import InputError, RunError
from tasks.core.snapshot_files import part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.domain.targets import TARGETS, Target
from tasks.engines import cluster
from tasks.stages.tune.settings import TuneConfig

if TYPE_CHECKING:
    from tasks.stages.tune.ended_trial import Ended
    from tasks.stages.tune.study import Study

TRIALS = pa.schema(
    [
        ("trial", pa.int32()),
        ("status", pa.string()),
        ("rounds", pa.int32()),
        ("best_round", pa.int32()),
        ("valid_loss", pa.float64()),
        ("params", pa.string()),
        ("train_rows", pa.int64()),
    ]
)
CURVES = pa.schema([("trial", pa.int32()), ("round", pa.int32()), ("loss", pa.float64())])
OTHERS_POLL_S = 1.0
SLICES, FINAL = ("train", "valid"), "final"


@stage(
    version=3, config=TuneConfig, unit="trials", libraries=("xgboost", "optuna", "ray", "scipy"), deterministic=False
)
def tune(splits: Snapshot, config: TuneConfig, out: SnapshotWriter) -> None:
    from tasks.stages.tune.study import Study

    target = TARGETS[splits.facts["target"]]
    check_before(splits, config, target)
    config = fitted(config, splits, target)
    name, file = f"raymill-{out.key}", out.scratch / "study.db"
    found = searched(Study(config, name, file), splits, target, out, Improvements(out))
    rows = [sampled(splits, config.max_rows)] * len(found)
    if last := finals(config, splits):
        best = sorted(found, key=lambda trial: trial.loss)[: config.finalists]
        study = Study(last, f"{name}-finals", file, given=[trial.params for trial in best])
        again = searched(study, splits, target, out)
        found += [replace(trial, status=FINAL) for trial in again]
        rows += [sampled(splits, last.max_rows)] * len(again)
    write(found, rows, target, out)


def finals(config: TuneConfig, splits: Snapshot) -> TuneConfig | None:
    """Return the settings of the finals; None if no trial reads a sample, or nothing that is larger may be read."""
    largest = max(splits.rows(name) for name in SLICES)
    if not config.finalists or min(largest, config.final_rows) <= config.max_rows:
        return None
    return config.model_copy(
        update={"max_rows": config.final_rows, "trials": config.finalists, "algorithm": "grid", "stopping": "patience"}
    )


def sampled(splits: Snapshot, max_rows: int) -> int:
    """Return how many rows of the train slice are read where at most so many may be."""
    total = splits.rows("train")
    return -(-total // stride(total, max_rows))


def check_before(splits: Snapshot, config: TuneConfig, target: Target) -> None:
    """Raise InputError or SettingsError for what would make every trial fail."""
    from tasks.engines.boosting_params import check_params

    for name in SLICES:
        if not splits.rows(name):
            raise InputError(f"the {name} slice is empty", where="tune", fix="see split.train and split.valid")
    ends = {name: axis.ends() for name, axis in config.axes.items()}
    for i in range(max(map(len, ends.values()))):
        params = {name: values[i % len(values)] for name, values in ends.items()}
        params.pop("begin", None)
        check_params({**config.fixed, **params}, target, "tune.space", splits.facts["features"])


def fitted(config: TuneConfig, splits: Snapshot, target: Target) -> TuneConfig:
    """Return the settings for these slices: one fold where there are rows enough, and the beginnings that exist.

    On larger sets beginning from the linear baseline was no better (decision 019). Several classes have no single
    margin to begin from, and XGBoost would ignore a `base_score` of the user's.
    """
    rows = {name: splits.rows(name) for name in SLICES}
    small = rows["valid"] < config.small_below and sum(rows.values()) <= config.max_rows
    folds = config.folds if small and splits.facts.get("borders") else 1
    can_begin = splits.facts.get("linear") and target.classes == 1 and "base_score" not in config.fixed
    space = {name: axis for name, axis in config.space.items() if name != "begin" or (small and can_begin)}
    return config.model_copy(update={"folds": folds, "space": space})


class Improvements:
    """Notes the best loss so far, with the seconds since the search began."""

    def __init__(self, out: SnapshotWriter) -> None:
        self.out, self.began = out, time.perf_counter()
        self.improved: list[tuple[float, float]] = []

    def __call__(self, trials: list[Ended]) -> None:
        best = min(trial.loss for trial in trials)
        if not self.improved or best < self.improved[-1][1]:
            self.improved.append((round(time.perf_counter() - self.began, 3), best))
            self.out.note(improved=self.improved)


def searched(
    study: Study, splits: Snapshot, target: Target, out: SnapshotWriter, improvements: Improvements | None = None
) -> list[Ended]:
    """Run what the study lacks, and return its trials. improvements: of the trials; the finals leave no notes."""
    try:
        with study.answering():
            if improvements:
                out.note(resumed_trials=len(study.ended()))
            search(study, splits, target, out, improvements)
            return study.ended()
    finally:
        study.close()


def search(
    study: Study, splits: Snapshot, target: Target, out: SnapshotWriter, improvements: Improvements | None
) -> None:
    """Run what is missing, wait for what other machines run, until all trials that are wanted have ended."""
    failed_before = study.failed()

    def ended() -> None:
        if not (trials := study.ended()):  # this one came on top of those that are wanted
            return
        if improvements:
            improvements(trials)
        out.progress(len(trials), study.wanted, "trials" if improvements else "finals")

    while len(study.ended()) < study.wanted:
        study.fail_lost()
        if (failed := study.failed() - failed_before) > study.wanted + 10:
            raise RunError(f"{failed} trials ended without a loss", where="tune", fix="check the labels and tune.space")
        if study.missing():
            with cluster.IMPORTING:
                from tasks.stages.tune import search as engine  # not at the top: Ray Tune takes a second to import
            seconds = engine.run(
                study,
                train=splits.files("train"),
                valid=splits.files("valid"),
                features=splits.facts["features"],
                linear=splits.facts["linear"] if "begin" in study.config.space else None,
                target=target,
                on_end=ended,
                folder=out.scratch / "ray",
            )
            if improvements:
                out.note(**seconds)
        else:
            time.sleep(OTHERS_POLL_S)


def write(trials: list[Ended], train_rows: list[int], target: Target, out: SnapshotWriter) -> None:
    last = [i for i, trial in enumerate(trials) if trial.status == FINAL]
    best = min(last or range(len(trials)), key=lambda i: trials[i].loss)
    rows: list[Any] = [
        (i, t.status, len(t.curve), t.best_round, t.loss, json.dumps(t.params, sort_keys=True), read)
        for i, (t, read) in enumerate(zip(trials, train_rows, strict=True))
    ]
    points: list[Any] = [(i, r, loss) for i, t in enumerate(trials) for r, loss in enumerate(t.curve)]
    for name, schema, records in (("", TRIALS, rows), ("curves", CURVES, points)):
        columns = [list(column) for column in zip(*records, strict=True)]
        out.write_table(part_name(0, name), pa.table(columns, names=schema.names), schema)
    out.fact(
        target=target.name,
        metric=target.metric,
        best_trial=best,
        best_params=trials[best].params,
        best_rounds=trials[best].best_round + 1,
        best_loss=trials[best].loss,
    )
