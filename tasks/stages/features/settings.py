"""Settings of the stage `features`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tasks.core.sections import Positive, Section


class TextScoreConfig(Section):
    dimensions: Annotated[int, Field(ge=1024)]
    blocks: Annotated[int, Field(ge=2)]
    shards: Positive
    l2: Annotated[float, Field(gt=0)]
    ridge_l2: Annotated[float, Field(gt=0)]
    iterations: Positive
    max_reviews: Positive


class FeatureGroups(Section):
    user: bool
    item: bool
    helpful: bool | None = Field(description="null: for the target helpful alone")
    catalogue: bool
    shape: bool
    context: bool
    stars: bool
    text: bool
    language: bool
    embeddings: bool


class FeaturesConfig(Section):
    target: Literal["rating", "positive", "stars", "helpful"]
    min_votes: Positive
    groups: FeatureGroups
    buckets: Positive
    text_score: TextScoreConfig
