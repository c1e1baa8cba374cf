"""Settings of the text score. Those of the whole stage are in `tasks.stages.features.selection`."""

from __future__ import annotations

from typing import Annotated

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
