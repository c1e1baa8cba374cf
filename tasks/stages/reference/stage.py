"""Describe the reviews that a model's errors are known on, for the watch over later ones: the stage `reference`.

In: the splits and the predictions of `evaluate`. Of the test slice, of at most `reference.max_rows` evenly spread rows:
`histograms/`, the rows by bin of each feature and of the prediction, in the whole and in each slice (`measures`);
`cells/`, the rows and losses of each combination of slices; and `about.json`. All of it goes into the registered model,
so that each version brings the reference that it is watched by (`tasks.stages.watch`).

The test slice, not the train slice: its errors are those of unseen reviews, and it is the latest. Features that sum up
the past (reviews of the user so far, new words) are not the same in early reviews, so that against the train slice each
night would seem to have drifted.

    raymill run --until reference
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.algorithms.sampling import stride
from tasks.core.part_files import read_part
from tasks.core.snapshot_files import FileEntry, FileSink, part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.domain.losses import losses, overall
from tasks.domain.targets import Target, target_of
from tasks.engines import cluster
from tasks.stages.evaluate.settings import EvaluateConfig
from tasks.stages.reference.layout import ABOUT, CELLS, CELLS_TABLE, COUNTS, About
from tasks.stages.reference.measures import CATEGORY, HISTOGRAMS, PREDICTION, Array, measure, ruler_of
from tasks.stages.reference.settings import ReferenceConfig


def cells_counted(reference: Snapshot) -> int:
    return reference.rows(CELLS_TABLE)


@stage(version=1, config=ReferenceConfig, unit="cells", size=cells_counted, libraries=("polars", "numpy"))
def reference(splits: Snapshot, scores: Snapshot, config: ReferenceConfig, out: SnapshotWriter) -> None:
    import ray

    describe = ray.remote(write)
    step = stride(splits.rows("test"), config.max_rows)
    target, evaluate = str(scores.facts["target"]), EvaluateConfig(**scores.manifest.config)
    sides = (splits.files("test"), scores.files(), list(splits.facts["features"]))
    made = describe.remote(out.sink, *sides, target, evaluate, step, config.bins)
    entries, about = cluster.gather([made])[0]
    about = about.model_copy(update={"unseen_from": unseen_from(splits.facts)})
    out.add(entries)
    out.write_bytes(ABOUT, about.model_dump_json().encode())
    loss = overall(about.metric, about.mean_loss)
    out.fact(target=target, metric=about.metric, rows=about.rows, loss=loss, columns=len(about.ruler.edges))


def write(
    sink: FileSink,
    tests: Sequence[Path],
    scored: Sequence[Path],
    features: Sequence[str],
    target: str,
    evaluate: EvaluateConfig,
    step: int,
    bins: int,
) -> tuple[list[FileEntry], About]:
    """Measure every `step`-th row of the test slice, and write both tables. tests, scored: the same rows."""
    of = target_of(target)
    rows = pl.concat(
        sampled(test, predicted, features, of, step) for test, predicted in zip(tests, scored, strict=True)
    )
    ruler = ruler_of(rows, features, evaluate, bins)
    measured, lost = measure(rows, ruler), row_losses(rows, of)
    entries = [
        sink.write_table(part_name(0, COUNTS), measured.table(ruler), HISTOGRAMS),
        sink.write_table(part_name(0, CELLS_TABLE), cells(measured.levels, lost), CELLS),
    ]
    loss = float(lost.mean())
    about = About(target=target, metric=of.metric, rows=len(rows), mean_loss=loss, unseen_from="", ruler=ruler)
    return entries, about


def unseen_from(splits: Mapping[str, Any]) -> str:
    """Return the time from which on the model has learned from no review, ISO 8601, by the facts of `split`: that of
    the test slice, or, in a split that is not by time, that after the last review of all."""
    if borders := splits.get("borders"):
        return str(borders["valid_until"])
    last = max(datetime.fromisoformat(period["until"]) for period in splits["periods"].values())
    return (last + timedelta(milliseconds=1)).isoformat()


def sampled(test: Path, predicted: Path, features: Sequence[str], target: Target, step: int) -> pl.DataFrame:
    """Return some rows of a file: features, CATEGORY, `label`, PREDICTION, and the shares of several classes."""
    shares = shares_of(target, "tuned")
    rows = read_part(test, [CATEGORY, "label", *features]).gather_every(step)
    known = read_part(predicted, ["tuned", *shares]).gather_every(step).rename({"tuned": PREDICTION})
    return pl.concat([rows, known], how="horizontal")


def shares_of(target: Target, name: str) -> list[str]:
    """Return the columns with the probabilities of several classes; none for a target of one number."""
    return [f"{name}_{k}" for k in range(1, target.classes + 1)] if target.classes > 1 else []


def row_losses(rows: pl.DataFrame, target: Target, name: str = "tuned") -> Array:
    """Return (n,) losses of rows with `label` and PREDICTION, or the shares of several classes."""
    shares = shares_of(target, name)
    predicted = rows.select(shares).to_numpy() if shares else rows[PREDICTION].to_numpy()
    return losses(target, rows["label"].to_numpy(), predicted)


def cells(levels: Array, lost: Array) -> pa.Table:
    """Return CELLS: rows and losses of each combination of slices, in the order of their places."""
    distinct, home = np.unique(levels, axis=0, return_inverse=True)
    home = home.reshape(-1)
    return pa.table(
        {
            "levels": pa.array(distinct.tolist(), pa.list_(pa.int16())),
            "rows": np.bincount(home, minlength=len(distinct)),
            "sum": np.bincount(home, lost, len(distinct)),
            "squares": np.bincount(home, lost**2, len(distinct)),
        }
    ).cast(CELLS)
