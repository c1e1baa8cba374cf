"""Score a champion that was trained on other features: through its own package, from the texts of the test slice.

Its package knows what was known when it was made (`About.until`), not the reviews since then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tasks.core.part_files import in_batches, read_part
from tasks.core.snapshots import Snapshot
from tasks.domain.losses import losses
from tasks.domain.targets import Target, target_of
from tasks.engines import cluster
from tasks.stages.evaluate import scoring, slices
from tasks.stages.evaluate.settings import EvaluateConfig
from tasks.stages.evaluate.stage import Judged, repeats
from tasks.stages.package.review_model import ReviewModel
from tasks.stages.prove import TASK_ROWS, Part, parts_of


@dataclass(frozen=True)
class Job:
    package: Path
    target: Target
    config: EvaluateConfig
    repeats: tuple[str, ...]


def judge_package(
    package: Path, raw: Snapshot, reviews: Snapshot, splits: Snapshot, scores: Snapshot, config: EvaluateConfig
) -> Judged:
    """Score a package on the test slice, beside the candidate's predictions in `scores`.

    Raises InputError for a package of another version.
    """
    import ray

    target = target_of(scores.facts["target"])
    job = Job(package, target, config, repeats(splits))
    task = ray.remote(score_parts)
    tests = splits.files("test")
    batches = in_batches(parts_of(raw, reviews, splits, scores), TASK_ROWS)
    found = cluster.gather(task.remote(batch, [tests[part.index] for part in batch], job) for batch in batches)
    measures, _, difference = scoring.measure_models(
        target, config, ("candidate", "model"), *(columns for _, columns in found)
    )
    sums = slices.add_up(one for of_batch, _ in found for one in of_batch)
    by_slice = slices.metric_by_slice(sums, "model", target.metric, config)
    return Judged(splits.rows("test"), measures["model"], by_slice, difference)


def score_parts(
    parts: Sequence[Part], tests: Sequence[Path], job: Job
) -> tuple[list[slices.Sums], list[scoring.Columns]]:
    """Score some parts in one task. tests: the files of the test slice, with labels and what slices need."""
    model, sums, columns = ReviewModel.load(job.package), [], []
    for part, test in zip(parts, tests, strict=True):
        rows = read_part(test)
        texts = rows.select("review_id").join(read_part(part.clean), on="review_id", how="left", maintain_order="left")
        names = [f"tuned_{k}" for k in range(1, job.target.classes + 1)] if job.target.classes > 1 else ["tuned"]
        evaluated = rows.select("review_id").join(
            read_part(part.evaluated, ["review_id", *names]), on="review_id", how="left", maintain_order="left"
        )
        candidate = evaluated.select(pl.col(names).cast(pl.Float32)).to_numpy()
        label, predicted = rows["label"].to_numpy(), model.predict(texts)
        columns.append(
            {"label": label, "candidate": candidate if len(names) > 1 else candidate[:, 0], "model": predicted}
        )
        lost = {"model": losses(job.target, label, predicted)}
        sums.append(slices.add_losses(rows, lost, job.repeats, job.config))
    return sums, columns
