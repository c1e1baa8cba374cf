"""A fault that is armed in a run: its variables, and what is broken beside the process that stops at the point."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import psutil

from flows.drill.place import Place
from flows.drill.points import Point
from flows.drill.scenes import Scene


@dataclass
class Armed:
    """A fault that waits for its process. Called while the run goes on: a process that stops at the point is what the
    scene strikes beside; then it goes on, in most scenes."""

    point: Point
    place: Place
    scene: Scene

    @property
    def variables(self) -> dict[str, str]:
        where = {"RAYMILL_KILL_AT": self.point.at, "RAYMILL_FAULT": self.point.fault}
        return {} if self.scene.always else {**where, "RAYMILL_KILL_ONCE": str(self.place.marker)}

    def __call__(self, run: int) -> None:
        if self.scene.strike is None or (stopped := self.place.struck()) is None:
            return
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(stopped)
            if process.status() == psutil.STATUS_STOPPED:
                self.scene.strike(stopped, psutil.Process(run))
                self.scene.strike = None
                if self.scene.goes_on:
                    process.resume()
