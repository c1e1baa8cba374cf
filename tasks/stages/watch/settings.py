"""Settings of the stage `watch`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks.core.sections import Fraction, Positive, Section


class WatchConfig(Section):
    enabled: bool
    max_rows: Positive
    min_rows: Positive
    slice_rows: Positive
    max_excess: Annotated[float, Field(ge=0)] | None
    max_unpriced: Fraction | None
    evidently: bool
