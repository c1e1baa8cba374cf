"""A reference as scoring reads it, from a registered model: `Reference.load`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from tasks.algorithms.reweighting import Cells
from tasks.core.errors import InputError
from tasks.core.part_files import read_part
from tasks.stages.reference.measures import Ruler

FORMAT = 1
FOLDER = "reference"  # in the package of a registered model
ABOUT, COUNTS, CELLS_TABLE = "about.json", "histograms", "cells"  # a file and two tables
# Combinations of slices: their places in `Ruler.levels`, the rows, and the sums of their losses and squared losses.
CELLS = pa.schema(
    [
        pa.field("levels", pa.list_(pa.int16()), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("sum", pa.float64(), nullable=False),
        pa.field("squares", pa.float64(), nullable=False),
    ]
)


class About(BaseModel):
    """rows: how many of the test slice were measured. mean_loss: their mean row loss (`tasks.domain.losses`).
    unseen_from: ISO 8601; the trees have learned from no review of this time or a later one. The package's models of
    the words may have, until its own `since`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    target: str
    metric: str
    rows: int
    mean_loss: float
    unseen_from: str
    ruler: Ruler


@dataclass(frozen=True)
class Reference:
    """What the test slice looked like, and what its rows' losses were by slice. counts, totals: by (slice, column)."""

    about: About
    counts: dict[tuple[str, str], list[int]]
    totals: dict[tuple[str, str], float]
    cells: Cells

    @classmethod
    def load(cls, package: Path) -> Reference | None:
        """Load the reference in a model's package; None if it has none. Raises InputError for another format."""
        folder = package / FOLDER
        if not (folder / ABOUT).exists():
            return None
        from pydantic import ValidationError

        try:
            about = About.model_validate_json((folder / ABOUT).read_text())
        except ValidationError as error:
            raise InputError(f"no reference of this version: {error.errors()[0]['msg']}", where=str(folder)) from None
        if about.format != FORMAT:
            raise InputError(f"a reference of format {about.format}, not {FORMAT}", where=str(folder))
        histograms = table(folder / COUNTS)
        keys = list(zip(histograms["slice"].to_list(), histograms["column"].to_list(), strict=True))
        return cls(
            about,
            dict(zip(keys, histograms["counts"].to_list(), strict=True)),
            dict(zip(keys, histograms["total"].to_list(), strict=True)),
            cells_of(table(folder / CELLS_TABLE)),
        )


def table(folder: Path) -> pl.DataFrame:
    return pl.concat([read_part(file) for file in sorted(folder.glob("*.parquet"))])


def cells_of(rows: pl.DataFrame) -> Cells:
    levels: np.ndarray[Any, Any] = np.array(rows["levels"].to_list(), np.int64)
    numbers = (rows[name].to_numpy().astype(np.float64) for name in ("rows", "sum", "squares"))
    return Cells(levels, *numbers)
