"""Features from one file of reviews and what is known beside it: the same functions for training and for scoring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from tasks.domain.targets import target_of
from tasks.stages.features import catalogue, text_score
from tasks.stages.features.group import Part
from tasks.stages.features.groups import declared_groups
from tasks.stages.features.settings import Groups
from tasks.stages.text_model.rows import OUTPUTS, STARS


def past_features(found: pl.DataFrame, kind: str, names: Sequence[str]) -> pl.DataFrame:
    """Return what was known of users, items, categories or brands (`past_aggregates.KNOWN`) as features."""
    count = pl.col("count").log1p() if kind in catalogue.KEYS else pl.col("count").fill_null(0)
    return found.with_columns(count).select(pl.col(name).alias(f"{kind}_{name}") for name in names)


def own_features(part: Part, groups: Groups) -> dict[str, pl.Series]:
    """Return the features that a review's own fields tell."""
    columns = {"n_chars": part.reviews["text"].str.len_chars()}
    for name in groups:
        if of_part := declared_groups()[name].of_part:
            columns |= of_part(part).to_dict()
    return columns


def text_features(scores: tuple[Any, Any], target: str) -> dict[str, pl.Series]:
    """Return the features of the group `text`, null where there is no score yet."""
    answers = text_score.columns(scores, target)
    return {name: pl.Series(column, dtype=pl.Float32).fill_nan(None) for name, column in answers.items()}


def deep_features(scores: Any, target: str) -> dict[str, pl.Series]:
    """Return the features of the group `deep` from a text model's scores (n, OUTPUTS), null where there is none."""
    above, from_stars = scores[:, : len(STARS)], target_of(target).from_stars
    columns = {
        "deep_score": from_stars(above) if from_stars else scores[:, OUTPUTS.index("helpful")],
        **{f"deep_above_{stars}": above[:, i] for i, stars in enumerate(STARS)},
        "deep_stars": scores[:, OUTPUTS.index("stars")],
    }
    return {name: pl.Series(column, dtype=pl.Float32).fill_nan(None) for name, column in columns.items()}
