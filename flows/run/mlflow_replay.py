"""Record in MLflow later what it could not take at once.

An MLflow server that goes down during a run must not cost the run its work. The run's own record
(`ROOT/runs/RUN.json`, key `unrecorded`) lists what is not recorded yet: names of stages, "results" (scores, plots, the
report) and "end" (how the run ended). The record and the committed snapshots hold everything that MLflow needs, so
nothing else is stored. The run itself tries again at its next stage and when it closes; after that, the next run does
(`catch_up`).
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from flows.run.mlflow_record import KEY, record_stage
from flows.run.record import RunRecord, StageRow, read_record
from tasks.core.errors import RaymillError, RegistryError
from tasks.core.secrets import masked
from tasks.core.snapshots import Snapshot
from tasks.core.stage import StageRun
from tasks.core.storage import run_records
from tasks.core.storage.store import SnapshotStore
from tasks.core.whole_files import write_whole
from tasks.engines import tracking
from tasks.stages import declared_stages

RESULTS, END = "results", "end"
ENDS = {"completed": "FINISHED", "interrupted": "KILLED"}  # MLflow's words; any other state is FAILED


@dataclass
class Outbox:
    """What this run still has to record in MLflow, in order."""

    tracker: tracking.Tracker
    store: SnapshotStore
    waiting: list[str] = field(default_factory=list)
    _gone: bool = False  # the parent run was deleted, and that has been said
    _lock: threading.Lock = field(default_factory=threading.Lock)  # stages may run in parallel

    def send(self, name: str, now: Callable[[], None], record: Callable[[], RunRecord]) -> bool:
        """Call `now` to record in MLflow, after everything that waits; return False if it must wait, too.

        `record` returns the run's record.
        """
        with self._lock:
            if not self._flush(record):
                self.waiting.append(name)
                return False
            try:
                with tracking.reaching(self.tracker.uri):
                    self._unless_refused(name, now)
            except RegistryError as error:
                logging.getLogger(__name__).warning("%s is not recorded in MLflow: %s", name, error.what)
                self.waiting.append(name)
                return False
            return True

    def _flush(self, record: Callable[[], RunRecord]) -> bool:
        """Record what waits; return whether nothing waits any more."""
        if self.waiting:
            try:
                tracking.reach(self.tracker.uri)  # a server that is still down costs no retries
                with tracking.reaching(self.tracker.uri):
                    while self.waiting and _is_known(self.waiting[0], latest := record()):
                        name = self.waiting[0]
                        self._unless_refused(name, partial(replay, name, latest, self.tracker, self.store))
                        del self.waiting[0]
            except RegistryError:
                return False
        return not self.waiting

    def _unless_refused(self, name: str, action: Callable[[], None]) -> None:
        """Call `action`; where MLflow answers and refuses, as for a deleted run, warn: the work itself is committed."""
        try:
            action()
        except Exception as error:
            if tracking.is_outage(error) or not tracking.is_refusal(error):
                raise
            if (why := tracking.gone(self.tracker)) and self._gone:
                return
            self._gone = bool(why)
            why = (
                f"{why}; nor is what follows" if why else f"MLflow refuses it: {str(error).partition(chr(10))[0][:200]}"
            )
            logging.getLogger(__name__).warning("%s is not recorded in MLflow: %s", name, why)


def _is_known(name: str, record: RunRecord) -> bool:
    """Tell whether the record has it: a parallel stage may have ended, but not be in the record yet."""
    return name in (RESULTS, END) or record.row(name) is not None


def replay(name: str, record: RunRecord, tracker: tracking.Tracker, store: SnapshotStore) -> None:
    """Record one part of a run in MLflow, from the run's record and its snapshots alone. Repeating it is safe."""
    if name == END:
        if record.state != "running":
            used = {"seconds": record.wall_s, "cpu_seconds": record.cpu_s, "peak_memory_mb": record.peak_mb}
            used |= {} if record.cost is None else {"cost": record.cost}
            used["warnings"] = len(record.warnings)
            tracker.log(tracker.run_id, metrics={f"run/{name}": value for name, value in used.items()})
            tracker.end(tracker.run_id, ENDS.get(record.state, "FAILED"))
    elif name == RESULTS:
        page = _snapshot(store, record.row("report"))
        pictures = [page.path(e.name) for e in page.manifest.files if e.name.endswith(".png")] if page else []
        record_results(tracker, record, pictures)
    elif (stage := declared_stages().get(name)) and (row := record.row(name)) and (snapshot := _snapshot(store, row)):
        _remove_children(tracker, snapshot.key)  # of an interrupted attempt
        inputs = [store.find(i.stage, i.key) for i in snapshot.manifest.inputs if i.key]
        done = StageRun(snapshot, row.reused, row.seconds, row.validation, row.notes)
        record_stage(tracker, stage, done, [i for i in inputs if i is not None], row.usage)


def record_results(tracker: tracking.Tracker, record: RunRecord, pictures: list[Path]) -> None:
    """Log scores, the decision, plots and the report in the parent run."""
    metrics = {f"test_{name}_{model}": v for name, of in (record.metrics or {}).items() for model, v in of.items()}
    tracker.log(tracker.run_id, metrics=metrics, tags={"raymill.decision": record.decision or ""})
    tracker.log_files(tracker.run_id, pictures, "plots")
    reports = [Path(record.report)] if record.report else []
    tracker.log_files(tracker.run_id, [report for report in reports if report.exists()], "report")


def catch_up(root: Path, tracker: tracking.Tracker, store: SnapshotStore, *, alone: bool = True) -> list[str]:
    """Record in MLflow what earlier runs could not; return a line per run.

    Runs of another MLflow are skipped. If this one goes down again, the rest waits for the next run. Unless this run is
    `alone` at work, so are those whose record says that they run: one that does records what it lacks itself.
    """
    lines: list[str] = []
    for path in sorted((root / "runs").glob("*.json")):
        if (stored := run_records.parsed(str(path), path.read_bytes())) is None:
            continue
        record = RunRecord.from_json(stored)
        may_run = record.state == "running" and not alone
        if not record.unrecorded or record.tracking != masked(tracker.uri) or may_run:
            continue
        try:
            with tracking.reaching(tracker.uri):
                lines.append(f"{record.run_id}: {_catch_up(record, tracker, store)}")
        except RegistryError:
            break
        except RaymillError as error:  # a damaged snapshot must not keep tonight's run from starting
            lines.append(f"{record.run_id}: not recorded: {error.what}")
            continue
        write_whole(path, json.dumps(replace(read_record(path), unrecorded=[]).to_json(), indent=1), synced=True)
    return lines


def _catch_up(record: RunRecord, tracker: tracking.Tracker, store: SnapshotStore) -> str:
    from mlflow.exceptions import MlflowException

    try:
        run = tracker.client.get_run(record.mlflow_run)
        if run.info.lifecycle_stage != "active":
            return "its MLflow run was deleted"
        own_tracker = replace(tracker, run_id=record.mlflow_run, experiment_id=run.info.experiment_id)
        for name in record.unrecorded:
            replay(name, record, own_tracker, store)
    except MlflowException as error:
        if tracking.is_outage(error):
            raise
        return f"MLflow refuses it: {error}"  # as it would next time
    return ", ".join(record.unrecorded)


def _snapshot(store: SnapshotStore, row: StageRow | None) -> Snapshot | None:
    return store.find(row.stage, row.key) if row and row.key else None


def _remove_children(tracker: tracking.Tracker, key: str) -> None:
    parent = f"tags.`mlflow.parentRunId` = '{tracker.run_id}'"
    for child in tracker.client.search_runs([tracker.experiment_id], f"{parent} and tags.`{KEY}` = '{key}'"):
        below = f"tags.`mlflow.parentRunId` = '{child.info.run_id}'"
        for run in [*tracker.client.search_runs([tracker.experiment_id], below), child]:
            tracker.client.delete_run(run.info.run_id)
