"""Settings of the stage `evaluate`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks.core.sections import Positive, Section


class EvaluateConfig(Section):
    short_chars: Positive
    categories: Positive
    worse_than: Annotated[float, Field(gt=1)]
    min_rows: Positive
    resamples: Annotated[int, Field(ge=100)]
    shap_rows: Positive
    worst: Positive
    seed: int
