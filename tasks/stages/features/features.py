"""Features from one file of reviews and what is known beside it: the same functions for training and for scoring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from tasks.stages.features import catalogue, text_score
from tasks.stages.features.group import Part
from tasks.stages.features.groups import declared_groups
from tasks.stages.features.settings import Groups


def past_features(found: pl.DataFrame, kind: str, names: Sequence[str]) -> pl.DataFrame:
    """Return what was known of users, items, categories or brands (`past_aggregates.KNOWN`) as features."""
    # In float64, then rounded: float32's own logarithm has a wrong last bit for one count in a hundred.
    logarithm = pl.col("count").cast(pl.Float64).log1p().cast(pl.Float32)
    count = logarithm if kind in catalogue.KEYS else pl.col("count").fill_null(0)
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
