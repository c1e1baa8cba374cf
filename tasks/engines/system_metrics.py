"""Record a machine's load in MLflow while a run works."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tasks.engines.tracking import Tracker

SAMPLE_S = 10.0  # between two samples of the machine's load
FINISH_S = 5.0  # the longest wait for the last sample


@contextmanager
def system_metrics(tracker: Tracker, wanted: bool) -> Iterator[None]:
    """Record this machine's load (`system/...` metrics of the parent run) while the block runs, if `wanted`.

    A thread samples every SAMPLE_S. It never fails: if MLflow goes down, the rest is missing.
    """
    monitor: Any = None
    with suppress(Exception):
        if wanted:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            monitor = SystemMetricsMonitor(tracker.run_id, sampling_interval=SAMPLE_S, tracking_uri=tracker.uri)
            monitor.start()
    try:
        yield
    finally:
        if monitor is not None:
            # Stopping may wait for a server that does not answer.
            finish = threading.Thread(target=monitor.finish, name="system-metrics-end", daemon=True)
            finish.start()
            finish.join(FINISH_S)
