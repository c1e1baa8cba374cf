"""The state that the stages of one flow run share. Ray and the validators are started here and nowhere else."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from flows.run import links, logs, warm_up, warned
from flows.run.history import History
from flows.run.mlflow_record import record_stage
from flows.run.mlflow_replay import END, RESULTS, Outbox, record_results, replay
from flows.run.progress import Artifacts, View
from flows.run.record import RunRecord, StageRow
from flows.run.usage import Meter, cost
from tasks.core.errors import RunError
from tasks.core.progress import Progress
from tasks.core.secrets import mask_error, masked
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import HasDigest, Stage, run_stage
from tasks.core.storage.store import SnapshotStore
from tasks.core.whole_files import write_whole
from tasks.engines import cluster, expectations, tracking
from tasks.settings import Settings

VIEW: ContextVar[View] = ContextVar("view")
# The settings of a run that this process starts itself: Prefect's server, which stores and shows a run's parameters,
# gets a masked copy.
SETTINGS: ContextVar[Settings | None] = ContextVar("settings", default=None)
CURRENT: ContextVar[Run] = ContextVar("run")
_LOG = logging.getLogger(__name__)


@dataclass
class Run:
    """One flow run: its settings, record, store, tracker and view."""

    settings: Settings
    record: RunRecord
    store: SnapshotStore
    tracker: tracking.Tracker
    outbox: Outbox
    view: View
    began: datetime
    clock: float
    meter: Meter
    history: History
    last: str | None = None
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    validations: dict[str, Any] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    artifacts: Artifacts = field(default_factory=Artifacts)
    lock: Any = field(default_factory=threading.RLock)
    ended: str = ""  # the state in which it ended; stages side by side may be at work for a moment more
    _validators: Any = None

    @property
    def run_id(self) -> str:
        return self.record.run_id

    @property
    def root(self) -> Path:
        return self.settings.storage.path

    def execute(self, stage: Stage, inputs: Sequence[HasDigest], config: Any) -> Snapshot:
        """Run or reuse a stage, record it and show it."""
        start = self._begins(stage.name)
        try:
            with logs.about(stage=stage.name), self.artifacts.of(stage.name) as to_prefect:

                def progress(report: Progress) -> None:
                    self.view.progressed(report)
                    to_prefect(report)

                done = run_stage(
                    stage,
                    inputs,
                    config,
                    self.store,
                    validate=self.validate,
                    prepare=self.prepare,
                    progress=progress,
                    waiting=lambda: _LOG.warning("%s: another run is making it: waiting for its end", stage.name),
                )
                compared = self.history.compared(stage.name, config, done.validation, done.snapshot.digest)
                if own := done.snapshot.facts.get("warnings"):  # a stage may warn of what it has found itself
                    compared["warnings"] = [*compared.get("warnings", ()), *own]
                done = replace(done, validation=compared)
        except BaseException as error:
            mask_error(error)  # Prefect stores its text
            self._failed(stage.name, error)
            raise
        usage = self.meter.end(stage.name)
        recording = time.perf_counter()
        self.snapshots[stage.name] = done.snapshot
        # The work is done and committed: an MLflow failure must not undo it.
        recorded = self.outbox.send(
            stage.name, lambda: record_stage(self.tracker, stage, done, inputs, usage), self.recorded
        )
        now = time.perf_counter()
        self._ended(StageRow.of(stage, done, usage, recorded=recorded, record_s=now - recording, wall_s=now - start))
        return done.snapshot

    def timed(self, name: str, decide: Callable[[], Any]) -> Any:
        """Run a step that makes no snapshot (its state is in the registry), and show it like a stage."""
        start = self._begins(name)
        try:
            with logs.about(stage=name):
                decision = decide()
        except BaseException as error:
            mask_error(error)
            self._failed(name, error)
            raise
        seconds = round(time.perf_counter() - start, 3)
        phases = {"reuse" if decision.reused else "record": seconds}
        usage = self.meter.end(name)
        row = StageRow(name, reused=decision.reused, seconds=phases, wall_s=seconds)
        self._ended(replace(row, cpu_s=usage.cpu_s, peak_mb=usage.peak_mb))
        return decision

    @property
    def over(self) -> bool:
        """Whether the last requested stage is done; the flow skips the stages after it."""
        return self.last is not None and self.record.row(self.last) is not None

    def _begins(self, name: str) -> float:
        self._check_open()
        with self.lock:
            self.expect(name)
            self.record.at_work.append(name)
            self._write("running")  # so the record of a killed run names the stages at work
            self.view.started(name)
        self.meter.begin(name)
        return time.perf_counter()

    def _check_open(self) -> None:
        """Raise RunError if the run is closed: after an interrupt a stage beside it may be retried, or end."""
        if self.ended:
            raise RunError(f"the run is {self.ended}", where=self.run_id, fix="start it again")

    def expect(self, name: str) -> None:
        """Fix the position of a stage's row in the record: parallel stages begin and end in any order."""
        if name not in self.order:
            self.order.append(name)

    def _failed(self, name: str, error: BaseException) -> None:
        self.meter.end(name)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        with self.lock:
            self.record.at_work.remove(name)
            if not self.ended:  # an interrupt makes the stages beside it fail
                self.record.failed = self.record.failed or {"stage": name, "error": masked(reason)}
            self.view.failed(name, error)

    def spare(self, name: str) -> None:
        """Let the run complete although this stage has failed: what it is for is committed already."""
        with self.lock:
            if self.record.failed and self.record.failed["stage"] == name:
                self.record.failed = None

    def _ended(self, row: StageRow) -> None:
        record = self.record
        with self.lock:  # stages may run in parallel
            record.at_work.remove(row.stage)
            if record.failed and record.failed["stage"] == row.stage:
                record.failed = None  # a retry succeeded
            record.stages = sorted([*record.stages, row], key=lambda r: self.order.index(r.stage))
            self.save("running")
            self.view.ended(row)

    def track_results(self, pictures: Sequence[Path]) -> None:
        """Record scores, the decision, plots and the report in MLflow's parent run."""
        start = time.perf_counter()
        self.outbox.send(RESULTS, lambda: record_results(self.tracker, self.record, list(pictures)), self.recorded)
        self.record.extra_s["tracking_results"] = round(time.perf_counter() - start, 3)

    def prepare(self) -> None:
        """Start Ray and the validators for a stage that is not reused; the validators load while it computes."""
        cluster.start(self.settings.ray, self.root)
        with self.lock:
            if self._validators is None:
                self._validators = warm_up.take_validators(self.settings.ray.workers)
                links.link("ray-dashboard", links.ray_dashboard(), "Ray dashboard")

    def validate(self, stage: Stage, out: SnapshotWriter) -> dict[str, Any]:
        self._check_open()
        config = getattr(self.settings, stage.section)
        suite = expectations.load_suite(stage.name).under(config)
        tables = {name: out.files(name) for name in {e.table for e in out.entries if e.rows is not None} | {""}}
        validation = self._validators.validate(suite, tables)
        self.validations[stage.name] = validation
        if not validation.success:
            docs = self.write_docs()
            expectations.raise_on_failure(stage.name, validation, str(docs))
        summary: dict[str, Any] = validation.summary()
        self.history.compared(stage.name, config, summary)  # which may fail the stage; its warnings are no content
        return summary

    def write_docs(self) -> Path | None:
        """Build the Data Docs from this run's validations; return the existing ones if it validated nothing."""
        folder = self.root / "docs"
        if not self.validations:
            return min(folder.rglob("index.html"), key=lambda page: len(page.parts), default=None)
        start = time.perf_counter()
        page = self._validators.write_data_docs(folder, self.validations, self.run_id, self.began)
        self.record.extra_s["data_docs"] = round(time.perf_counter() - start, 3)
        return Path(page)

    def summary(self, state: str) -> RunRecord:
        """Return a copy of the run's record in its present state, without secrets."""
        record, read = self.record, self.record.row("ingest") or self.record.row("read-new")
        usage = self.meter.total()
        return replace(
            record.masked(),
            state=self.ended or state,
            wall_s=round(time.perf_counter() - self.clock, 2),
            cpu_s=usage.cpu_s,
            peak_mb=usage.peak_mb,
            cost=cost(usage, self.settings),
            rows_in=read.rows_in if read else 0,
            stages=list(record.stages),
            at_work=list(record.at_work),
            extra_s=dict(record.extra_s),
            unrecorded=list(self.outbox.waiting),
        )

    def recorded(self) -> RunRecord:
        """Return the record of the running run."""
        with self.lock:
            return self.summary("running")

    def save(self, state: str) -> None:
        """Write the run's record to the store, where `gc` and `snapshots` read it."""
        self.store.keep(self._write(state))

    def _write(self, state: str) -> Path:
        """Write the run's record atomically: the file is replaced whole."""
        path = self.root / "runs" / f"{self.run_id}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(self.summary(state).to_json(), indent=1), synced=True)
        return path

    def close(self, state: str) -> None:
        self.ended = state
        if self._validators is not None:
            warm_up.give_back(self._validators)
        self.artifacts.finish()
        warned.to_prefect(self.record)

        ended = partial(self.summary, state)
        try:
            self.outbox.send(END, lambda: replay(END, ended(), self.tracker, self.store), ended)
            with self.lock:
                self.save(state)
        finally:
            self.meter.close()


def current() -> Run:
    return CURRENT.get()
