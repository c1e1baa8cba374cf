"""Settings of the stages `package` and `prove`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks.core.sections import Positive, Section


class PackageConfig(Section):
    example_rows: Positive
    interval_level: Annotated[float, Field(gt=0, lt=1)]
    interval_groups: Positive
