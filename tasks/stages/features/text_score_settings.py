"""Settings of the text score: how many hash buckets, where time is cut, and how its models are fitted."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from tasks.core.sections import Positive, Section


def _ascending(borders: list[float]) -> list[float]:
    if any(not 0 < border < 1 for border in borders) or borders != sorted(set(borders)):
        raise ValueError("shares between 0 and 1, each greater than the one before it")
    return borders


Borders = Annotated[list[float], Field(min_length=1), AfterValidator(_ascending)]


class TextScoreConfig(Section):
    dimensions: Annotated[int, Field(ge=1024)]
    borders: Borders
    shards: Positive
    l2: Annotated[float, Field(gt=0)]
    ridge_l2: Annotated[float, Field(gt=0)]
    iterations: Positive
    max_reviews: Positive
