"""Settings of the stage `tune`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, SecretStr

from tasks.core.sections import Positive, Section
from tasks.domain import search_space


class TuneConfig(Section):
    algorithm: search_space.Algorithm
    trials: Positive
    grid_points: Positive
    concurrent: Positive | None = Field(description="Trials at once; null: as many as there are cores")
    max_rounds: Positive
    max_bin: Annotated[int, Field(ge=2)] | None
    max_rows: Positive
    finalists: Annotated[int, Field(ge=0)]
    final_rows: Positive
    folds: Positive
    small_below: Annotated[int, Field(ge=0)]
    stopping: search_space.Stopping
    min_rounds: Positive
    patience: Positive
    seed: Annotated[int, Field(ge=0)]
    # Excluded from manifests and all other files: the place of the trials does not affect their results, and the URL
    # may hold a password.
    storage: SecretStr | None = Field(None, exclude=True, description="URL of a database; null: a file of its own")
    space: Annotated[dict[str, search_space.Axis | None], AfterValidator(search_space.check)]
    fixed: dict[str, Any] = Field({}, description="Always the train.params that are not searched: set them there")
    first: Annotated[dict[str, search_space.Value | None], AfterValidator(search_space.check_names)]

    @property
    def axes(self) -> dict[str, search_space.Axis]:
        """Return the ranges to search, without those set to null."""
        return {name: axis for name, axis in self.space.items() if axis is not None}
