"""Features from one file of reviews and what is known beside it: the same functions for training and for scoring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from tasks.domain.targets import target_of
from tasks.stages.features import catalogue, text_score
from tasks.stages.features.columns import Columns, as_columns
from tasks.stages.features.group import Part
from tasks.stages.features.groups import declared_groups
from tasks.stages.features.settings import Groups
from tasks.stages.text_model.rows import OUTPUTS, STARS


def past_features(found: Columns, kind: str, names: Sequence[str]) -> Columns:
    """Return what was known of users, items, categories or brands (`past_aggregates.KNOWN`) as features."""
    count = found["count"]
    # Polars' logarithm: the last digit of NumPy's depends on the processor. In float64, then rounded: float32's own has
    # a wrong last bit for one count in a hundred.
    logarithm = pl.Series(count, dtype=pl.Float64).log1p().cast(pl.Float32)
    count = logarithm.to_numpy() if kind in catalogue.KEYS else np.nan_to_num(count)
    return {f"{kind}_{name}": count if name == "count" else found[name] for name in names}


def own_features(part: Part, groups: Groups) -> Columns:
    """Return the features that a review's own fields tell."""
    columns: Columns = {}
    for name in groups:
        if of_part := declared_groups()[name].of_part:
            columns |= as_columns(of_part(part))
    return columns if "n_chars" in columns else columns | as_columns({"n_chars": part.reviews["text"].str.len_chars()})


def text_features(scores: tuple[Any, Any], target: str) -> Columns:
    """Return the features of the group `text`, NaN where there is no score yet."""
    return as_columns(text_score.columns(scores, target))


def deep_features(scores: Any, target: str) -> Columns:
    """Return the features of the group `deep` from a text model's scores (n, OUTPUTS), NaN where there is none."""
    above, from_stars = scores[:, : len(STARS)], target_of(target).from_stars
    return as_columns(
        {
            "deep_score": from_stars(above) if from_stars else scores[:, OUTPUTS.index("helpful")],
            **{f"deep_above_{stars}": above[:, i] for i, stars in enumerate(STARS)},
            "deep_stars": scores[:, OUTPUTS.index("stars")],
        }
    )
