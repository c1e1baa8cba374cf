"""Settings of the stage `embeddings`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tasks.core.sections import Positive, Section


class SvdConfig(Section):
    buckets: Annotated[int, Field(ge=1024)]
    oversampling: Annotated[int, Field(ge=0)]
    iterations: Annotated[int, Field(ge=0)]


class Word2VecConfig(Section):
    window: Annotated[int, Field(ge=1, le=20)]
    negatives: Positive
    epochs: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    subsample: Annotated[float, Field(gt=0, le=1)]
    min_count: Positive
    batch: Positive


class SegmentsConfig(Section):
    enabled: bool
    min_clusters: Annotated[int, Field(ge=2)]
    max_clusters: Annotated[int, Field(le=64)]
    starts: Positive
    sample: Annotated[int, Field(ge=10, le=10_000)]

    @model_validator(mode="after")
    def _has_a_number_of_clusters_to_try(self) -> SegmentsConfig:
        if self.max_clusters < self.min_clusters:
            raise ValueError("max_clusters must not be below min_clusters")
        return self


class EmbeddingsConfig(Section):
    enabled: bool
    method: Literal["svd", "skip-gram", "cbow"]
    dimensions: Annotated[int, Field(ge=1, le=256)]
    fit_share: Annotated[float, Field(gt=0, lt=1)]
    shards: Positive
    seed: Annotated[int, Field(ge=0)]
    svd: SvdConfig
    word2vec: Word2VecConfig
    segments: SegmentsConfig
