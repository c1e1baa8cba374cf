"""The loss that predictions turned out to have, once the reviews' stars are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from tasks.core.part_files import in_batches, scan_parts
from tasks.domain.targets import Target
from tasks.stages.reference.measures import PREDICTION
from tasks.stages.reference.stage import row_losses, shares_of

HELD_ROWS = 5_000_000  # predictions that are held at once, but for those of a night that has more


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
    (found,) = realised_each(rated, [(scored, unseen_from)], target)
    if isinstance(found, str):
        raise OSError(found)
    return found


def realised_each(
    rated: Sequence[Path], nights: Sequence[tuple[Sequence[Path], datetime]], target: Target
) -> list[Realised | str]:
    """Return `realised` of several nights, each given as (scored, unseen_from), and what is wrong with files instead.

    The stars are read once for all nights with HELD_ROWS together, and only those of their reviews are held.
    """
    if not rated or not _any_stars(rated):
        return [Realised()] * len(nights)
    scored = [Scored(files, unseen_from, _rows_in(files)) for files, unseen_from in nights]
    return [one for some in in_batches(scored, HELD_ROWS) for one in _joined(rated, some, target)]


@dataclass(frozen=True)
class Scored:
    """The predictions of a night."""

    files: Sequence[Path]
    unseen_from: datetime
    rows: int


def _rows_in(files: Sequence[Path]) -> int:
    """Count rows; those of files that cannot be read are none, which is told when they are needed."""
    try:
        return int(scan_parts(files).select(pl.len()).collect().item()) if files else 0
    except (OSError, pl.exceptions.PolarsError):
        return 0


def _joined(rated: Sequence[Path], nights: Sequence[Scored], target: Target) -> list[Realised | str]:
    predicted = [_predicted(night.files, target) for night in nights]
    names = [rows.select("review_id") for rows in predicted if isinstance(rows, pl.DataFrame)]
    if not any(map(len, names)):
        return [rows if isinstance(rows, str) else Realised() for rows in predicted]
    wanted = pl.concat(names).unique().lazy()
    stars = scan_parts(rated).select("review_id", "rating", "timestamp").drop_nulls("rating")
    held = stars.join(wanted, on="review_id", how="semi").unique("review_id", keep="none").collect()
    return [
        rows if isinstance(rows, str) else _turned_out(rows, held, target, night.unseen_from)
        for rows, night in zip(predicted, nights, strict=True)
    ]


def _predicted(scored: Sequence[Path], target: Target) -> pl.DataFrame | str:
    """Return a night's predictions, those of one review each, or why they cannot be read."""
    columns = ("review_id", PREDICTION, *shares_of(target, PREDICTION))
    if not scored:
        return pl.DataFrame(schema={"review_id": pl.String})
    try:
        return scan_parts(scored).select(columns).drop_nulls().unique("review_id", keep="none").collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        return str(error).partition("\n")[0]


def _any_stars(rated: Sequence[Path]) -> bool:
    return bool(scan_parts(rated).select(pl.col("rating").is_not_null().any()).collect().item())


def _turned_out(predicted: pl.DataFrame, stars: pl.DataFrame, target: Target, unseen_from: datetime) -> Realised:
    if not len(predicted):
        return Realised()
    joined = predicted.join(stars, on="review_id").sort("review_id")
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
