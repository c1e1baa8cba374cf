"""A trial that has ended: its parameters and its curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ended:
    """A trial that ended with a loss. `curve`: validation loss after each round. `best_round` counts from 0."""

    params: dict[str, Any]
    status: str
    curve: list[float]

    @property
    def best_round(self) -> int:
        return min(range(len(self.curve)), key=self.curve.__getitem__)

    @property
    def loss(self) -> float:
        return self.curve[self.best_round]
