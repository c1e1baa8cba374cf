"""Open what a flow run needs, and close it however the run ends."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from prefect.runtime import flow_run

from flows.run import links, logs
from flows.run.at_work import at_work
from flows.run.context import CURRENT, VIEW, Run
from flows.run.history import History
from flows.run.mlflow_record import run_tags
from flows.run.mlflow_replay import Outbox, catch_up
from flows.run.names import check_stage_name
from flows.run.progress import LogView
from flows.run.record import RunRecord
from flows.run.usage import Meter
from flows.servers import engine
from tasks.core.storage.opening import open_store
from tasks.engines import tracking
from tasks.settings import Settings


@contextmanager
def open_run(settings: Settings, until: str | None = None, flow: str = "etl-train") -> Iterator[Run]:
    """Open everything a flow run needs, and close it however the run ends. until: the last stage to run; None: all."""
    check_stage_name(until)
    with at_work(settings.storage.path) as first, _opened(settings, until, flow, alone=first) as run:
        yield run


@contextmanager
def _opened(settings: Settings, until: str | None, flow: str, *, alone: bool) -> Iterator[Run]:
    began = datetime.now(UTC)
    run_id = f"{began:%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    clock = time.perf_counter()
    store = open_store(settings.storage)
    store.check()
    tracker = tracking.Tracker.open(settings.tracking, f"{flow} {run_id}", run_tags(run_id, settings))
    engine.collect_again()
    record = RunRecord(
        run_id=run_id,
        started=began.isoformat(timespec="seconds"),
        mlflow_run=tracker.run_id,
        tracking=tracker.uri,
        flow_run_id=str(flow_run.id or ""),
        mlflow_page=links.mlflow_page(tracker),
        dataset=settings.data.called,
        target=settings.features.target,
    )
    run = Run(
        settings=settings,
        record=record,
        store=store,
        tracker=tracker,
        outbox=Outbox(tracker, store),
        view=LogView() if settings.logging.as_json else VIEW.get(LogView()),
        began=began,
        clock=clock,
        meter=Meter(),
        history=History.of(settings, record),
        last=until,
    )
    record.caught_up = catch_up(run.root, tracker, store, alone=alone) or None
    record.extra_s["tracking_open"] = round(time.perf_counter() - clock, 3)
    links.link("mlflow-run", record.mlflow_page, "MLflow run")
    token = CURRENT.set(run)
    state = "failed"
    try:
        with (
            logs.about(run_id=run_id, flow_run_id=record.flow_run_id),
            tracking.system_metrics(tracker, settings.tracking.system_metrics),
        ):
            yield run
        state = "completed"
    except KeyboardInterrupt:
        state = "interrupted"
        raise
    finally:
        CURRENT.reset(token)
        run.close(state)
