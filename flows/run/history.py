"""Compare the numbers of tonight's snapshots with those of the last nights, from the run records in ROOT/runs.

A stage's numbers are those that its validation computed: its rows, columns' shares of nulls and means. They are
compared with those of the same stage, under the same settings, in runs of the same data set and target. All records of
the same snapshot are one night, whatever their days: a delivery that is read again is no news. A number outside its
limits (`tasks.algorithms.night_limits`) is a warning, or fails the stage. The history is no input of a stage: no key
and no digest depends on it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from pydantic import BaseModel

from flows.run.record import RunRecord, StageRow, read_record
from tasks.algorithms.night_limits import Limits, learned
from tasks.core.digests import digest_of
from tasks.core.errors import ValidationFailed
from tasks.core.sections import HistoryConfig
from tasks.engines.validation import MEAN, NULLS, ROWS, Warned
from tasks.settings import Settings

MOST_RECORDS = 300  # that are read for a stage that is new, or has new settings


@dataclass
class History:
    """The numbers of past nights, by stage and its settings: by snapshot, the latest first."""

    config: HistoryConfig
    records: Iterator[RunRecord] = field(default_factory=lambda: iter(()))  # not read yet, the latest first
    numbers: dict[tuple[str, str], dict[str, Mapping[str, float]]] = field(default_factory=dict)
    most: int = 1  # numbers watched on one night
    lock: Lock = field(default_factory=Lock)  # stages run side by side

    @classmethod
    def of(cls, settings: Settings, this: RunRecord) -> History:
        """Return the past of `this` run. Records are read once a stage needs them."""
        config = settings.validation.history
        return cls(config, _past(settings.storage.path / "runs", this, config))

    def _nights(self, stage: str, under: str) -> Mapping[str, Mapping[str, float]]:
        """Return the nights of a stage under its settings, one more than count: one may be of tonight's snapshot."""
        with self.lock:
            nights = self.numbers.setdefault((stage, under), {})
            while len(nights) <= self.config.nights and (record := next(self.records, None)):
                rows = [row for row in record.stages if row.stage in self.config.stages]
                for row in rows:
                    self._add(row)
                self.most = max(self.most, sum(len(self.watched(row.validation)) for row in rows))
            return dict(nights)

    def _add(self, row: StageRow) -> None:
        if numbers := self.watched(row.validation):
            nights = self.numbers.setdefault((row.stage, row.validation.get("settings", "")), {})
            nights.setdefault(row.digest, numbers)

    def watched(self, validation: Mapping[str, Any]) -> dict[str, float]:
        """Return the numbers to watch among those of a validation, by name."""
        columns = self.config.columns
        return {
            name: value
            for name, value in validation.get("numbers", {}).items()
            if columns is None or name.rpartition(": ")[2] == ROWS or name.rpartition(" of ")[2] in columns
        }

    def compared(
        self, stage: str, config: BaseModel | None, validation: Mapping[str, Any], digest: str = ""
    ) -> dict[str, Any]:
        """Return the validation with warnings of the numbers that are outside their limits.

        digest: the snapshot's, where there is one: what it said before is no past. Raises ValidationFailed if that is
        to fail the stage.
        """
        if self.config.severity is None or stage not in self.config.stages:
            return dict(validation)
        under = _under(config)
        nights = self._nights(stage, under)
        past = [night for of, night in nights.items() if of != digest][: self.config.nights]
        numbers = self.watched(validation)
        outside = []
        for name, value in numbers.items():
            values = [night[name] for night in past if name in night]
            if len(values) >= self.config.warm_up:
                limits = self._limits(name, values, max(self.most, len(numbers)))
                outside += [] if limits.hold(value) else [_warned(name, value, limits)]
        if outside and self.config.severity == "fail":
            raise _failed(stage, outside)
        return {**validation, "settings": under, "warnings": [*validation.get("warnings", ()), *outside]}

    def _limits(self, name: str, values: list[float], numbers: int) -> Limits:
        of = 1.0 if NULLS in name else abs(statistics.median(values))
        change = self.config.min_change * of
        return learned(values, numbers=numbers, false_alarms=self.config.false_alarms, least_change=change)


def _under(config: BaseModel | None) -> str:
    return digest_of(config.model_dump(mode="json") if config else {})[:12]


def _past(folder: Path, this: RunRecord, config: HistoryConfig) -> Iterator[RunRecord]:
    """Yield the records of runs of the same data set and target, the newest first. Broken ones are passed over."""
    for path in sorted(folder.glob("*.json"), reverse=True)[:MOST_RECORDS]:
        try:
            record = read_record(path)
        except (OSError, ValueError, TypeError, AttributeError):
            continue
        same = (record.dataset, record.target) == (this.dataset, this.target) and record.run_id != this.run_id
        if same and (config.since is None or record.started[:10] >= config.since.isoformat()):
            yield record


def _warned(name: str, value: float, limits: Limits) -> Warned:
    least = limits.low if MEAN in name else max(limits.low, 0.0)
    within = f"{_shown(name, least)} to {_shown(name, limits.high)}"
    return {"expectation": name, "value": _shown(name, value), "limit": f"{within}, by {limits.nights} nights"}


def _shown(name: str, value: float) -> str:
    if NULLS in name:
        return f"{value:.2%}"
    return f"{value:.5g}" if MEAN in name else f"{value:,.0f}"


def _failed(stage: str, outside: list[Warned]) -> ValidationFailed:
    lines = ["{expectation}: {value}; limit: {limit}".format(**warned) for warned in outside]
    return ValidationFailed(
        f"{len(outside)} number(s) are not as on past nights; nothing was committed\n  " + "\n  ".join(lines),
        where=stage,
        fix="if the change is right: --set validation.history.since=TODAY, a date, forgets the nights before it",
    )
