"""Settings of the stage `language-model`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks.core.sections import Positive, Section
from tasks.stages.language_model.ngrams import MAX_PERIODS


class LanguageModelConfig(Section):
    enabled: bool
    order: Annotated[int, Field(ge=1, le=3)]
    periods: Annotated[int, Field(ge=2, le=MAX_PERIODS)]
    max_reviews: Positive
    min_count: Positive
    backoff: Annotated[float, Field(gt=0, lt=1)]
    partitions: Positive
    spill_mb: Positive
