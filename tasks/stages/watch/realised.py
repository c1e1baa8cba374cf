"""The loss that predictions turned out to have, once the reviews' stars are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from tasks.core.part_files import scan_parts
from tasks.domain.targets import Target
from tasks.stages.reference.measures import PREDICTION
from tasks.stages.reference.stage import row_losses, shares_of


@dataclass(frozen=True)
class Realised:
    """rows: predictions whose label is known by now. mean: their mean row loss; error: its standard error.

    learned: reviews with stars that are left out, since the model may have learned from them.
    """

    rows: int = 0
    mean: float | None = None
    error: float | None = None
    learned: int = 0


def realised(rated: Sequence[Path], scored: Sequence[Path], target: Target, unseen_from: datetime) -> Realised:
    """Join predictions with the stars of the same reviews, by `review_id`.

    rated: files with `review_id`, `rating`, null where there are no stars, and `timestamp`. scored: files of the stage
    `score`. unseen_from: reviews from then on count, since the model has learned from earlier ones. A name that stands
    for several reviews on either side is passed over.
    """
    if not rated or not scored:
        return Realised()
    shares = shares_of(target, PREDICTION)
    stars = scan_parts(rated).select("review_id", "rating", "timestamp")
    stars = stars.drop_nulls("rating").unique("review_id", keep="none")
    predicted = scan_parts(scored).select("review_id", PREDICTION, *shares).drop_nulls()
    joined = predicted.unique("review_id", keep="none").join(stars, on="review_id").sort("review_id").collect()
    rows = joined.filter(pl.col("timestamp") >= unseen_from)
    learned = len(joined) - len(rows)
    if not len(rows):
        return Realised(learned=learned)
    label = target.label_of(rows.select("rating").to_arrow(), 0)
    lost = row_losses(rows.with_columns(label=pl.Series(label)), target, PREDICTION)
    error = float(lost.std(ddof=1) / len(lost) ** 0.5) if len(lost) > 1 else None
    return Realised(len(rows), float(lost.mean()), error, learned)


def by_stars(target: Target) -> bool:
    """Tell whether a review's stars are all that its label needs: votes come in for years."""
    return target.from_stars is not None
