"""Settings of the stages `package` and `prove`."""

from __future__ import annotations

from tasks.core.sections import Positive, Section


class PackageConfig(Section):
    example_rows: Positive
