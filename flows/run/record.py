"""The record of a run: stored as ROOT/runs/RUN.json and printed by `raymill run --json`.

Records of earlier versions can be read: missing fields get their defaults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from flows.run.usage import Usage
from tasks.core.secrets import masked_within

if TYPE_CHECKING:
    from tasks.core.stage import Stage, StageRun

# Fields of some runs only, or set only at the end: left out of the JSON while None.
LATER = (
    *("caught_up", "failed", "decision", "card", "gates", "metrics", "mlflow", "report", "data_docs", "startup_s"),
    "cost",
    "target",
    "dataset",
    "watched",
)
# Fields whose texts may hold secrets. `report` and `data_docs` are local paths, which must stay usable.
MASKED = ("tracking", "mlflow_page", "caught_up", "failed", "decision", "card", "gates", "metrics", "mlflow")


@dataclass(frozen=True)
class StageRow:
    """What a stage did. A step without a snapshot, such as `register`, has no digest and no key."""

    stage: str
    rows_in: int = 0
    rows: int = 0  # in `unit`
    unit: str = "rows"
    rejected: int = 0
    repeated: int = 0
    forgotten: int = 0  # rows of users to forget
    left_out: int = 0
    quarantined: int = 0  # files
    lost_values: int = 0  # of optional columns, in usable rows
    reused: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)  # by phase
    digest: str = ""
    key: str = ""
    validation: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    recorded: bool = True  # in MLflow, without delay
    wall_s: float = 0.0
    cpu_s: float = 0.0  # see flows/run/usage.py, as for peak_mb
    peak_mb: int = 0

    @classmethod
    def of(
        cls, stage: Stage, done: StageRun, usage: Usage, *, recorded: bool, record_s: float, wall_s: float
    ) -> StageRow:
        """Return the row of a stage that has made a snapshot. record_s: how long recording in MLflow took."""
        snapshot, counts = done.snapshot, done.snapshot.manifest.counts
        return cls(
            stage=stage.name,
            rows_in=counts.get("rows_in", 0),
            rows=stage.size(snapshot),
            unit=stage.unit,
            rejected=snapshot.rows("rejects"),
            repeated=counts.get("repeated", 0),
            forgotten=counts.get("forgotten", 0),
            left_out=counts.get("left_out", 0),
            quarantined=snapshot.facts.get("quarantined", 0),
            lost_values=sum(snapshot.facts.get("lost_values", {}).values()),
            reused=done.reused,
            seconds={**done.seconds, "record": round(record_s, 4)},
            digest=snapshot.digest,
            key=snapshot.key,
            validation=dict(done.validation),
            notes=dict(done.notes),
            recorded=recorded,
            wall_s=round(wall_s, 3),
            cpu_s=usage.cpu_s,
            peak_mb=usage.peak_mb,
        )

    @property
    def usage(self) -> Usage:
        return Usage(self.cpu_s, self.peak_mb)

    @property
    def warnings(self) -> list[dict[str, str]]:
        """List what the stage's validation warned of: stage, expectation, value and limit of each."""
        return [{"stage": self.stage, **warned} for warned in self.validation.get("warnings", ())]


class Failure(TypedDict):
    """The stage that failed, and the first line of its error."""

    stage: str
    error: str


@dataclass
class RunRecord:
    """A run and its stages in the flow's order, filled in as the run proceeds."""

    run_id: str = ""
    state: str = "running"  # then completed, failed or interrupted
    started: str = ""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mb: int = 0
    cost: float | None = None  # of the CPU seconds, at tracking.price_per_core_hour
    rows_in: int = 0
    stages: list[StageRow] = field(default_factory=list)
    at_work: list[str] = field(default_factory=list)  # stages that have begun and not ended
    extra_s: dict[str, float] = field(default_factory=dict)  # seconds outside of stages
    mlflow_run: str = ""
    tracking: str = ""  # the address of the MLflow that the run is recorded in
    unrecorded: list[str] = field(default_factory=list)  # what is not recorded there yet
    flow_run_id: str = ""
    mlflow_page: str | None = None
    caught_up: list[str] | None = None  # earlier runs that this run recorded in MLflow, a line each
    failed: Failure | None = None
    decision: str | None = None
    card: str | None = None
    gates: list[dict[str, Any]] | None = None
    metrics: dict[str, dict[str, float]] | None = None  # by measure, then model
    target: str | None = None
    dataset: str | None = None
    mlflow: str | None = None
    report: str | None = None
    data_docs: str | None = None
    startup_s: float | None = None
    watched: dict[str, Any] | None = None  # what the watch over scored reviews found (`watched_nights.Night`)

    def row(self, stage: str) -> StageRow | None:
        """Return a stage's row; None if the stage has not ended."""
        return next((row for row in self.stages if row.stage == stage), None)

    @property
    def warnings(self) -> list[dict[str, str]]:
        """List what the validations of all stages warned of, in the stages' order."""
        return [warned for row in self.stages for warned in row.warnings]

    def masked(self) -> RunRecord:
        """Return a copy without secrets, safe to show."""
        return replace(self, **masked_within({name: getattr(self, name) for name in MASKED}))

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None or name not in LATER}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> RunRecord:
        stages = [StageRow(**_known(StageRow, row)) for row in stored.get("stages", ())]
        return cls(**{**_known(cls, stored), "stages": stages})


def read_record(path: Path) -> RunRecord:
    """Read ROOT/runs/RUN.json. Raises OSError or ValueError."""
    return RunRecord.from_json(json.loads(path.read_text()))


def _known(kind: type[StageRow | RunRecord], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are fields of `kind`; another version may have written others."""
    names = {of.name for of in fields(kind)}
    return {name: value for name, value in stored.items() if name in names}
