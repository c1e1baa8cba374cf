"""What a distributed training is given, and the model that it returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tasks.core.digests import digest_of
from tasks.engines.checkpoints import Curves


@dataclass(frozen=True)
class TrainJob:
    """The input of each worker: file names and numbers, no data. All workers see `folder`.

    params: XGBoost's, without those of the target. patience: rounds without a better validation loss before stopping.
    threads: per worker; None for an equal share of its machine's cores. begin: the feature that is the linear
    baseline's prediction, which the first round repeats; None to begin from the mean.
    """

    train: tuple[Path, ...]
    valid: tuple[Path, ...]
    features: tuple[str, ...]
    target: str
    params: dict[str, Any]
    seed: int
    rounds: int
    folder: Path
    patience: int | None = None
    checkpoint_every: int | None = None
    threads: int | None = None
    external_memory: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    begin: str | None = None

    @property
    def identity(self) -> str:
        """Return a digest that a checkpoint must match. It omits the rows, which are part of the folder's key."""
        own = [self.params, self.seed, self.checkpoint_every, self.device, self.begin]
        return digest_of([self.features, self.target, *own])


@dataclass(frozen=True)
class Trained:
    """A model as UBJ bytes, cut to `rounds`, and the losses of all rounds that ran, by slice and round.

    resumed_from: rounds taken from a checkpoint. seconds: "matrix" and "rounds" on rank 0, "start" for the rest.
    """

    model: bytes
    curves: Curves
    rounds: int
    resumed_from: int
    seconds: dict[str, float]
