"""Settings of the stage `score`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tasks.core.sections import Fraction, Positive, Section


class ScoreConfig(Section):
    strategy: Literal["uniform", "dynamic", "sharded"]
    workers: Positive | None
    chunk_rows: Positive
    reasons: Annotated[int, Field(ge=0)]
    max_reject_fraction: Fraction
