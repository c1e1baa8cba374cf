"""Progress of a running stage, reported by the stage to one receiver."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """A stage's state: `done` of `total` units of work, running totals of its outputs, seconds since it began, and
    `measures`, numbers of the moment such as a loss.

    `resumed` is true if some of it was done by an earlier run: no speed can be computed from `done` then.
    """

    stage: str
    done: int
    total: int
    unit: str
    amounts: Mapping[str, int]
    seconds: float
    resumed: bool = False
    measures: Mapping[str, float] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.done >= self.total

    @property
    def fraction(self) -> float:
        """The share that is done, 0 to 1; 1 if there was nothing to do."""
        return 1.0 if self.finished else max(0.0, self.done / self.total)


Receiver = Callable[[Progress], None]


def nothing(_progress: Progress) -> None:
    """Ignore the progress: the default receiver."""


@dataclass
class Reporter:
    """Passes a stage's progress to its receiver. A receiver's error is logged once and never reaches the stage."""

    stage: str = ""
    receiver: Receiver = nothing
    clock: Callable[[], float] = time.perf_counter
    began: float = field(init=False)
    _complained: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def report(
        self,
        done: int,
        total: int,
        unit: str,
        amounts: Mapping[str, int],
        *,
        resumed: bool,
        measures: Mapping[str, float] | None = None,
    ) -> None:
        try:
            seconds = self.clock() - self.began
            self.receiver(
                Progress(self.stage, int(done), int(total), unit, dict(amounts), seconds, resumed, measures or {})
            )
        except Exception:
            if not self._complained:
                self._complained = True
                logging.getLogger(__name__).warning("%s: its progress cannot be shown", self.stage, exc_info=True)
