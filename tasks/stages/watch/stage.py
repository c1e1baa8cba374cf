"""Watch over scored reviews: how they differ from those that the model's errors are known on, and what it costs.

In: reviews as `read-new` writes them, their predictions, and the registered model, which brings its reference
(`tasks.stages.reference`). At most `watch.max_rows` evenly spread rows are measured. Out: the distances of each feature
and of the prediction, in the whole and by slice (`drift.DRIFT`); `slices/` (`drift.SLICES`); and `histograms/`, as in
the reference. Facts (`Findings`): the expected loss, which is the reference's losses in tonight's mix of slices
(`tasks.algorithms.reweighting`); the realised loss of the rows that have stars already; and the warnings. A model
without a reference, and a night without rows, are told and do not fail.

    raymill score --input PATH --out FOLDER
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa

from tasks.algorithms.sampling import stride
from tasks.core.errors import InputError
from tasks.core.part_files import in_batches, read_part, scan_parts
from tasks.core.snapshot_files import part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.domain.targets import target_of
from tasks.engines import cluster
from tasks.stages.features.columns import as_series
from tasks.stages.package.layout import ABOUT, About
from tasks.stages.package.review_model import CHUNK_ROWS, ReviewModel
from tasks.stages.reference.layout import COUNTS, Reference
from tasks.stages.reference.measures import CATEGORY, HISTOGRAMS, PREDICTION, Measured, add_up, measure
from tasks.stages.score.registered import RegisteredModel
from tasks.stages.watch.drift import DRIFT, SLICES, drift, slices
from tasks.stages.watch.findings import Findings, findings
from tasks.stages.watch.realised import Realised, by_stars, realised
from tasks.stages.watch.settings import WatchConfig

TASK_ROWS = 10_000  # rows that are worth loading the model in one more process


@dataclass(frozen=True)
class Part:
    """A file of reviews, those of its predictions, and the first row to measure."""

    reviews: Path
    scored: tuple[Path, ...]
    start: int
    rows: int


@stage(version=1, config=WatchConfig, libraries=("xgboost", "polars", "numpy", "tokenizers"), flow="score")
def watch(read: Snapshot, scored: Snapshot, model: RegisteredModel, config: WatchConfig, out: SnapshotWriter) -> None:
    reference, problem = _reference(model)
    found, tables = Findings(told=[problem]), Tables()
    if reference is not None:
        measured, turned_out = _measured(read, scored, model, config), _realised(read, scored, reference)
        found = findings(measured, turned_out, reference, config)
        tables = Tables.of(measured, reference, config) if measured else tables
    out.write_table(part_name(0), tables.drift, DRIFT)
    out.write_table(part_name(0, "slices"), tables.slices, SLICES)
    out.write_table(part_name(0, COUNTS), tables.histograms, HISTOGRAMS)
    out.fact(model=model.name, version=model.version, rows=scored.rows(), **found.as_json())


@dataclass(frozen=True)
class Tables:
    """What is written: without rows where nothing was measured."""

    drift: pa.Table = field(default_factory=DRIFT.empty_table)
    slices: pa.Table = field(default_factory=SLICES.empty_table)
    histograms: pa.Table = field(default_factory=HISTOGRAMS.empty_table)

    @classmethod
    def of(cls, measured: Measured, reference: Reference, config: WatchConfig) -> Tables:
        histograms = measured.table(reference.about.ruler)
        return cls(drift(measured, reference, config.slice_rows), slices(measured, reference), histograms)


def _reference(model: RegisteredModel) -> tuple[Reference | None, str]:
    """Return the model's reference, or why there is none.

    Its `unseen_from` is that of the whole package, whose last models of the words may have learned from a part of the
    test slice.
    """
    try:
        reference = Reference.load(model.folder)
        if reference is None:
            return None, f"version {model.version} has no reference to watch by: later versions have one"
        about = About.parse((model.folder / ABOUT).read_text(), model.key)
    except InputError as error:
        return None, f"version {model.version} cannot be watched: {error.what}"
    since = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=about.since)
    unseen_from = max(datetime.fromisoformat(reference.about.unseen_from), since).isoformat()
    return replace(reference, about=reference.about.model_copy(update={"unseen_from": unseen_from})), ""


def _measured(read: Snapshot, scored: Snapshot, model: RegisteredModel, config: WatchConfig) -> Measured | None:
    import ray

    step = stride(read.rows(), config.max_rows)
    task = ray.remote(measure_parts)
    batches = in_batches(parts_of(read, scored, step), TASK_ROWS)
    found = cluster.gather(task.remote(batch, model.folder, step) for batch in batches)
    measured = [one for one in found if one is not None]
    return add_up(measured) if measured else None


def _realised(read: Snapshot, scored: Snapshot, reference: Reference) -> Realised:
    import ray

    target = target_of(reference.about.target)
    if not by_stars(target):
        return Realised()
    sides = (read.files(), scored.files(), target, datetime.fromisoformat(reference.about.unseen_from))
    joined: Realised = cluster.gather([ray.remote(realised).remote(*sides)])[0]
    return joined


def parts_of(read: Snapshot, scored: Snapshot, step: int) -> Iterator[Part]:
    """Match each file of reviews with those of its predictions, which have its number; every `step`-th row counts."""
    first = 0
    for index, entry in enumerate(read.entries()):
        prefix = part_name(index).removesuffix(".parquet")
        of_part = tuple(scored.root / e.name for e in scored.entries() if e.name.startswith(prefix) and e.rows)
        start, rows = -first % step, entry.rows or 0
        if of_part and start < rows:
            yield Part(read.root / entry.name, of_part, start, -(-(rows - start) // step))
        first += rows


def measure_parts(parts: Sequence[Part], package: Path, step: int) -> Measured | None:
    """Measure the reviews of some parts that have a prediction; None if none has."""
    model, reference = ReviewModel.load(package), Reference.load(package)
    assert reference is not None, "the driver has looked"
    measured = []
    for part in parts:
        predicted = scan_parts(part.scored).select("review_id", PREDICTION).unique("review_id", keep="first").collect()
        some = read_part(part.reviews).gather_every(step, part.start)
        # Without those that could not be scored: they have no place among the predictions, and may fail here as well.
        rows = some.join(predicted.drop_nulls(), on="review_id", how="inner", maintain_order="left")
        for piece in rows.iter_slices(CHUNK_ROWS):
            columns = as_series(model.columns(piece.drop(PREDICTION)))
            columns |= {name: piece[name] for name in (CATEGORY, PREDICTION)}
            measured.append(measure(pl.DataFrame(columns), reference.about.ruler))
    return add_up(measured) if measured else None
