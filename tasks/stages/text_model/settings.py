"""Settings of the stage `text-model`, and those that it shares with `next-token`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tasks.core.sections import Positive, Section
from tasks.stages.features.text_score_settings import Borders

Share = Annotated[float, Field(gt=0, lt=1)]


class ShapeConfig(Section):
    """The transformer that is trained from nothing."""

    layers: Positive
    width: Positive
    heads: Positive
    hidden: Positive

    @model_validator(mode="after")
    def _heads_divide(self) -> ShapeConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self


class DeepConfig(Section):
    """How a transformer is trained, whatever it learns."""

    enabled: bool
    pretrained: Annotated[str, Field(min_length=1)] | None = Field(alias="from")
    shape: ShapeConfig
    batch: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    warm_up: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0)]
    clip: Annotated[float, Field(gt=0)] | None
    precision: Literal["float32", "bfloat16", "float16"]
    validation: Share
    patience: Positive
    checkpoint_steps: Positive
    shards: Positive
    threads: Positive
    device: Literal["auto", "cpu", "cuda"]
    seed: Annotated[int, Field(ge=0)]


class TextModelConfig(DeepConfig):
    max_tokens: Annotated[int, Field(ge=2, le=4096)]
    borders: Borders
    epochs: Positive
    left_out: Annotated[float, Field(ge=0, lt=1)]
    evaluations: Positive
    max_reviews: Positive
    min_votes: Positive
