"""Settings of the stage `features`."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from tasks.core.sections import Positive, Section
from tasks.domain.targets import TARGETS, target_of


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


def _known(target: str) -> str:
    return target_of(target).name


class FeaturesConfig(Section):
    target: Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": [*TARGETS]})]
    min_votes: Positive
    groups: FeatureGroups
    buckets: Positive
    text_score: TextScoreConfig
