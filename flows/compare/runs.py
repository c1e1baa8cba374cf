"""Compare two runs stage by stage, from their records and the manifests of their snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flows.run.record import RunRecord, StageRow
from tasks.core.changes import Change, changes
from tasks.core.snapshots import Manifest
from tasks.stages import declared_stages

RUN_FIELDS = ("run_id", "started", "state", "wall_s", "cpu_s", "peak_mb", "rows_in", "decision")


@dataclass(frozen=True)
class StagePair:
    """A stage in two runs; None: the run has not ended it. `removed`: a snapshot is gone, so changes are not known."""

    stage: str
    a: StageRow | None
    b: StageRow | None
    changes: tuple[Change, ...] = ()
    removed: bool = False

    @property
    def same(self) -> bool:
        return self.a is not None and self.b is not None and self.a.digest == self.b.digest

    def as_json(self) -> dict[str, Any]:
        fields = ("digest", "key", "rows", "unit", "rows_in", "rejected", "repeated", "reused", "wall_s")
        sides = {
            side: {name: getattr(row, name) for name in fields} if row else None
            for side, row in (("a", self.a), ("b", self.b))
        }
        listed = [change.as_json() for change in self.changes]
        return {"stage": self.stage, "same": self.same, **sides, "changes": listed, "removed": self.removed}


@dataclass(frozen=True)
class RunDiff:
    """Two runs, their stages in order, and their models' losses: by measure, then model, of A and B."""

    a: RunRecord
    b: RunRecord
    stages: tuple[StagePair, ...]

    @property
    def losses(self) -> dict[str, dict[str, tuple[float | None, float | None]]]:
        before, after = self.a.metrics or {}, self.b.metrics or {}
        return {
            measure: {
                model: (before.get(measure, {}).get(model), after.get(measure, {}).get(model))
                for model in dict.fromkeys([*before.get(measure, {}), *after.get(measure, {})])
            }
            for measure in dict.fromkeys([*before, *after])
        }

    def as_json(self) -> dict[str, Any]:
        sides = {
            side: {name: getattr(run.masked(), name) for name in RUN_FIELDS}
            for side, run in (("a", self.a), ("b", self.b))
        }
        return {**sides, "stages": [pair.as_json() for pair in self.stages], "losses": self.losses}


def compare_runs(a: RunRecord, b: RunRecord, manifests: Mapping[str, Manifest]) -> RunDiff:
    """Compare two runs. manifests: those that are left, by key."""
    names = dict.fromkeys(row.stage for run in (b, a) for row in run.stages)
    return RunDiff(a, b, tuple(_pair(name, a.row(name), b.row(name), manifests) for name in names))


def _pair(name: str, a: StageRow | None, b: StageRow | None, manifests: Mapping[str, Manifest]) -> StagePair:
    if a is None or b is None or a.key == b.key:
        return StagePair(name, a, b)
    before, after = manifests.get(a.key), manifests.get(b.key)
    if before is None or after is None:
        return StagePair(name, a, b, removed=True)
    declared = declared_stages().get(name)
    return StagePair(name, a, b, tuple(changes(before, after, declared.section if declared else "")))
