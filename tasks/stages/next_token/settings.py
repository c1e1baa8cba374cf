"""Settings of the stage `next-token`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from tasks.core.sections import Positive
from tasks.stages.text_model.settings import DeepConfig, Share


class NextTokenConfig(DeepConfig):
    vocabulary: Annotated[int, Field(ge=2)]
    context: Annotated[int, Field(ge=2)]
    steps: Positive
    test: Share
    evaluate_steps: Positive

    @model_validator(mode="after")
    def _leaves_some_to_learn_from(self) -> NextTokenConfig:
        if self.validation + self.test > 0.5:
            raise ValueError("validation and test together must leave half of the blocks to learn from")
        return self
