"""Settings of ingest: limits on raw files, and which reviews are usable."""

from __future__ import annotations

from datetime import date
from typing import Literal

from pydantic import Field

from tasks.core.sections import Fraction, Positive, Section


class ReadConfig(Section):
    """Limits on raw files and what happens to damaged ones."""

    damaged_files: Literal["quarantine", "refuse"]
    max_reject_fraction: Fraction
    max_record_mb: Positive
    max_unpacked_gb: Positive
    max_unpacked_ratio: Positive
    max_columns: Positive


class IngestConfig(ReadConfig):
    min_rows: Positive
    earliest: date
    latest: date | None = Field(description="The last day a review can be from; null: the day after ingest runs")


class IngestItemsConfig(ReadConfig):
    pass
