"""Prove that a packaged model scores raw reviews as evaluation scored their features: the stage `prove`.

Worker processes load the package, as any other program would, and predict the test slice from its raw rows. Out: for
each test review from `since` on (`tasks.stages.package`) `review_id`, `evaluated` and `packaged`, the two predictions;
and the table `example`, some raw reviews with their `prediction`. Facts: `rows` compared, `earlier` ones that the
package scores as if they had been written later, `missing` ones that were not found among the raw rows or got no
number (`packaged` is null), the `largest_difference`, an order-independent digest of both predictions, and the
`intervals` that the errors on the test slice give (`tasks.algorithms.conformal`), null for a target that is no number.

    raymill run --until prove
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.algorithms import conformal
from tasks.core.part_files import in_batches, read_part
from tasks.core.snapshot_files import FileEntry, FileSink, part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.domain.metrics import expected
from tasks.domain.schemas import REVIEWS
from tasks.domain.targets import target_of
from tasks.engines import cluster
from tasks.parallel.key_hash import key_hash
from tasks.stages.clean.text import tidy_text
from tasks.stages.package.review_model import ReviewModel
from tasks.stages.package.settings import PackageConfig

TASK_ROWS = 50_000
PROOF = pa.schema(
    [
        pa.field("review_id", pa.string(), nullable=False),
        pa.field("evaluated", pa.float32(), nullable=False),
        pa.field("packaged", pa.float32()),
    ]
)
EXAMPLE = REVIEWS.append(pa.field("prediction", pa.float32(), nullable=False))


@dataclass(frozen=True)
class Part:
    """Files of one part of the test slice: what evaluation predicted, and its reviews, clean and raw."""

    index: int
    evaluated: Path
    clean: Path
    raw: Path
    rows: int


@dataclass(frozen=True)
class Proven:
    """One part's result. example: its first reviews as EXAMPLE."""

    entry: FileEntry | None
    rows: int
    earlier: int
    missing: int
    largest: float
    digests: tuple[int, int]
    example: pa.Table


@stage(version=1, config=PackageConfig, section="package", libraries=("xgboost", "polars", "numpy", "tokenizers"))
def prove(
    raw: Snapshot,
    reviews: Snapshot,
    splits: Snapshot,
    scores: Snapshot,
    package: Snapshot,
    config: PackageConfig,
    out: SnapshotWriter,
) -> None:
    import ray

    task = ray.remote(prove_parts)
    batches = in_batches(parts_of(raw, reviews, splits, scores), TASK_ROWS)
    intervals = ray.remote(fit_intervals).remote(scores.files(), str(scores.facts["target"]), config)
    found = cluster.gather(task.remote(batch, package.root, config.example_rows, out.sink) for batch in batches)
    proven = [one for batch in found for one in batch]
    out.add(one.entry for one in proven)
    if not any(one.entry for one in proven):
        out.write_table(part_name(0), PROOF.empty_table(), PROOF)
    example = pa.concat_tables([EXAMPLE.empty_table(), *(one.example for one in proven)])
    out.write_table(part_name(0, "example"), example.slice(0, config.example_rows), EXAMPLE)
    digests = [sum(one.digests[side] for one in proven) % 2**64 for side in (0, 1)]
    out.fact(
        intervals=cluster.gather([intervals])[0],
        rows=sum(one.rows for one in proven),
        earlier=sum(one.earlier for one in proven),
        missing=sum(one.missing for one in proven),
        largest_difference=max((one.largest for one in proven), default=0.0),
        digests={name: f"{digest:016x}" for name, digest in zip(("evaluated", "packaged"), digests, strict=True)},
    )


def fit_intervals(scored: Sequence[Path], target: str, config: PackageConfig) -> dict[str, Any] | None:
    """Fit intervals on evaluation's predictions: of a number, or of the expected stars."""
    rows, of = pl.concat([read_part(file, ["label", "tuned"]) for file in scored]), target_of(target)
    if not len(rows) or not of.unit:
        return None
    label = rows["label"].to_numpy() + (of.classes > 1)  # classes count from 0
    return asdict(conformal.fit(rows["tuned"].to_numpy(), label, config.interval_level, config.interval_groups))


def parts_of(raw: Snapshot, reviews: Snapshot, splits: Snapshot, scores: Snapshot) -> list[Part]:
    """Match the files: split numbers its files by those of clean, and clean by those of ingest."""
    raws, cleans = raw.files(), reviews.files()
    parts = []
    for i, (sliced, evaluated) in enumerate(zip(splits.entries("test"), scores.files(), strict=True)):
        clean = cleans[number(Path(sliced.name))]
        parts.append(Part(i, evaluated, clean, raws[number(clean)], rows=sliced.rows or 0))
    return parts


def number(part: Path) -> int:
    return int(part.stem.removeprefix("part-"))


def prove_parts(parts: Sequence[Part], package: Path, example_rows: int, sink: FileSink) -> list[Proven]:
    model = ReviewModel.load(package)
    return [prove_part(part, model, example_rows, sink) for part in parts]


def prove_part(part: Part, model: ReviewModel, example_rows: int, sink: FileSink) -> Proven:
    evaluated = read_part(part.evaluated, ["review_id", "timestamp", "tuned"])
    since = pl.from_epoch(pl.Series([model.about.since]), "ms").dt.replace_time_zone("UTC")[0]
    compared = evaluated.filter(pl.col("timestamp") >= since)
    rows = kept_rows(part, compared["review_id"], model)
    packaged = expected(target_of(model.about.target), model.predict(rows)).astype(np.float32)
    rows = rows.with_columns(prediction=pl.Series(packaged, dtype=pl.Float32))
    both = compared.join(rows, on="review_id", how="left", maintain_order="left").select(
        "review_id", evaluated="tuned", packaged="prediction"
    )
    both = both.with_columns(pl.col("packaged").fill_nan(None))
    entry = sink.write_table(part_name(part.index), both.to_arrow(), PROOF) if len(both) else None
    difference = (both["evaluated"] - both["packaged"]).abs().max()
    return Proven(
        entry,
        rows=len(both),
        earlier=len(evaluated) - len(both),
        missing=both["packaged"].null_count(),
        largest=float(difference) if difference is not None else 0.0,  # type: ignore[arg-type]
        digests=(digest_of(both, "evaluated"), digest_of(both, "packaged")),
        example=rows.head(example_rows).select(EXAMPLE.names).to_arrow().cast(EXAMPLE),
    )


def kept_rows(part: Part, ids: pl.Series, model: ReviewModel) -> pl.DataFrame:
    """Return the raw rows of these reviews: of repeats the one that `clean` kept, told by its clean text."""
    wanted = pl.DataFrame({"review_id": ids})
    clean = read_part(part.clean).join(wanted, on="review_id", how="semi")
    raw = read_part(part.raw).join(wanted, on="review_id", how="semi").with_row_index("row")
    tidy = raw.with_columns(tidy_text(raw[name], model.about.clean) for name in ("title", "text"))
    kept = (
        tidy.join(clean, on=REVIEWS.names, how="semi", nulls_equal=True).unique("review_id", keep="first")["row"].sort()
    )
    return raw[kept].drop("row")


def digest_of(rows: pl.DataFrame, column: str) -> int:
    """Sum the hashes of (review_id, prediction) modulo 2^64: the same in any order of the rows."""
    bits = rows[column].fill_null(float("nan")).to_numpy().view(np.int32)
    keyed = pa.table({"id": rows["review_id"].to_arrow(compat_level=pl.CompatLevel.oldest()), "bits": bits})
    hashes: Any = key_hash(keyed, ("id", "bits"))
    return int(hashes.sum(dtype=np.uint64))
