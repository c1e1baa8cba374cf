"""What a run did: the record that ROOT/runs/RUN.json keeps and `raymill run --json` prints.

Records that earlier versions wrote are read, too: what they lack has its default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from tasks.core.secrets import masked_within

if TYPE_CHECKING:
    from tasks.core.stage import Stage, StageRun

# What only some runs have, or have only at their end: left out of the JSON as long as it is None.
LATER = ("caught_up", "failed", "decision", "card", "gates", "metrics", "mlflow", "report", "data_docs", "startup_s")
# Texts that may hold secrets. `report` and `data_docs` are paths of this machine, to be opened as they are.
MASKED = ("tracking", "mlflow_page", "caught_up", "failed", "decision", "card", "gates", "metrics", "mlflow")


@dataclass(frozen=True)
class StageRow:
    """What a stage did. A step whose state is elsewhere, like the registry's, has no digest and no key."""

    stage: str
    rows_in: int = 0
    rows: int = 0  # in `unit`
    unit: str = "rows"
    rejected: int = 0
    repeated: int = 0
    left_out: int = 0
    quarantined: int = 0  # files
    reused: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)  # by phase
    digest: str = ""
    key: str = ""
    validation: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    recorded: bool = True  # in MLflow, at once
    wall_s: float = 0.0

    @classmethod
    def of(cls, stage: Stage, done: StageRun, *, recorded: bool, record_s: float, wall_s: float) -> StageRow:
        """Return the row of a stage that has left a snapshot. record_s: how long it took to tell MLflow."""
        snapshot, counts = done.snapshot, done.snapshot.manifest.counts
        return cls(
            stage=stage.name,
            rows_in=counts.get("rows_in", 0),
            rows=stage.size(snapshot),
            unit=stage.unit,
            rejected=snapshot.rows("rejects"),
            repeated=counts.get("repeated", 0),
            left_out=counts.get("left_out", 0),
            quarantined=snapshot.facts.get("quarantined", 0),
            reused=done.reused,
            seconds={**done.seconds, "record": round(record_s, 4)},
            digest=snapshot.digest,
            key=snapshot.key,
            validation=dict(done.validation),
            notes=dict(done.notes),
            recorded=recorded,
            wall_s=round(wall_s, 3),
        )


class Failure(TypedDict):
    """The stage that failed, and the first line of its error."""

    stage: str
    error: str


@dataclass
class RunRecord:
    """A run, its stages in the flow's order. The run fills it while it goes on."""

    run_id: str = ""
    state: str = "running"  # then completed, failed or interrupted
    started: str = ""
    wall_s: float = 0.0
    rows_in: int = 0
    stages: list[StageRow] = field(default_factory=list)
    at_work: list[str] = field(default_factory=list)  # stages that have begun and not ended
    extra_s: dict[str, float] = field(default_factory=dict)  # seconds outside of stages
    mlflow_run: str = ""
    tracking: str = ""  # the address of the MLflow that the run is recorded in
    unrecorded: list[str] = field(default_factory=list)  # what that MLflow could not be told
    flow_run_id: str = ""
    mlflow_page: str | None = None
    caught_up: list[str] | None = None  # earlier runs that MLflow was told of, a line each
    failed: Failure | None = None
    decision: str | None = None
    card: str | None = None
    gates: list[dict[str, Any]] | None = None
    metrics: dict[str, dict[str, float]] | None = None  # by measure, then model
    mlflow: str | None = None
    report: str | None = None
    data_docs: str | None = None
    startup_s: float | None = None

    def row(self, stage: str) -> StageRow | None:
        """Return what a stage did; None where it has not ended."""
        return next((row for row in self.stages if row.stage == stage), None)

    def masked(self) -> RunRecord:
        """Return a copy to be shown, without secrets."""
        return replace(self, **masked_within({name: getattr(self, name) for name in MASKED}))

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None or name not in LATER}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> RunRecord:
        stages = [StageRow(**_known(StageRow, row)) for row in given.get("stages", ())]
        return cls(**{**_known(cls, given), "stages": stages})


def read_record(path: Path) -> RunRecord:
    """Read ROOT/runs/RUN.json. Raises OSError and ValueError."""
    return RunRecord.from_json(json.loads(path.read_text()))


def _known(kind: type[StageRow | RunRecord], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values that `kind` has a field for: another version may have written others."""
    names = {of.name for of in fields(kind)}
    return {name: value for name, value in given.items() if name in names}
