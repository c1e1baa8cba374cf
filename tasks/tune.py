"""Slices in, the best hyper-parameters out: Ray Tune with Optuna's TPE and ASHA, several trials at once.

Trials learn on the train slice and are judged by RMSE on the validation slice; the test slice is not read. Concurrent
trials end in an order of their own, so the search is not deterministic and its manifest says so. Ended trials are
kept beside the attempt: a search that was killed takes them up and runs only what is missing.

Out: the trials (`trial`, `status`, `rounds`, `best_round`, `valid_rmse`, `params`), their curves (`curves/`), and as
facts `best_params`, `best_rounds`, `best_rmse`, `best_trial`.

    raymill run --until tune
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.core.settings import TuneConfig
from tasks.core.snapshots import Snapshot, SnapshotWriter, part_name
from tasks.core.stage import stage
from tasks.engines import cluster

TRIALS = pa.schema(
    [
        ("trial", pa.int32()),
        ("status", pa.string()),
        ("rounds", pa.int32()),
        ("best_round", pa.int32()),
        ("valid_rmse", pa.float64()),
        ("params", pa.string()),
    ]
)
CURVES = pa.schema([("trial", pa.int32()), ("round", pa.int32()), ("rmse", pa.float64())])


@stage(version=1, libraries=("xgboost", "optuna", "ray"), deterministic=False)
def tune(splits: Snapshot, config: TuneConfig, out: SnapshotWriter) -> None:
    with cluster.IMPORTING:
        from tasks.engines import search  # not at the top: Ray Tune takes a second to import

    journal = Journal(out.scratch / "trials.jsonl")
    earlier = journal.read()[: config.trials]
    if len(earlier) < config.trials:
        search.run(
            train=splits.files("train"),
            valid=splits.files("valid"),
            features=splits.facts["features"],
            config=config,
            earlier=earlier,
            on_end=journal.append,
            folder=out.scratch / "ray",
        )
    trials = journal.read()[: config.trials]
    write(trials, out)
    out.note(resumed_trials=len(earlier))


def write(trials: list[dict[str, Any]], out: SnapshotWriter) -> None:
    best = min(range(len(trials)), key=lambda i: trials[i]["valid_rmse"])
    rows = [
        (i, t["status"], len(t["curve"]), t["best_round"], t["valid_rmse"], json.dumps(t["params"], sort_keys=True))
        for i, t in enumerate(trials)
    ]
    points = [(i, r, rmse) for i, t in enumerate(trials) for r, rmse in enumerate(t["curve"])]
    for name, schema, records in (("", TRIALS, rows), ("curves", CURVES, points)):
        columns = [list(column) for column in zip(*records, strict=True)]
        out.write_table(part_name(0, name), pa.table(columns, names=schema.names), schema)
    out.fact(
        best_trial=best,
        best_params=trials[best]["params"],
        best_rounds=trials[best]["best_round"] + 1,
        best_rmse=trials[best]["valid_rmse"],
    )


class Journal:
    """Ended trials, a JSON line each. A line cut off by a kill is left out."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, trial: dict[str, Any]) -> None:
        whole = self.path.read_bytes().rpartition(b"\n") if self.path.exists() else (b"", b"", b"")
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.truncate(len(whole[0] + whole[1]))  # a line that a kill cut off would spoil the next one
            file.seek(0, 2)
            file.write(json.dumps(trial).encode() + b"\n")

    def read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        whole = [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [t for t in map(json.loads, whole) if math.isfinite(t["valid_rmse"])]
