"""Settings of the stage `reference`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks.core.sections import Positive, Section


class ReferenceConfig(Section):
    bins: Annotated[int, Field(ge=2, le=100)]
    max_rows: Positive
