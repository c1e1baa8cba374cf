"""MLflow: one run per flow run, a child per stage that learns, a grandchild per trial.

Only the driver uses MLflow, through `MlflowClient` and no global state, so nothing depends on MLflow's active run. The
database and the experiment are made once, before any work: concurrent migrations race, and an unreachable registry
should be reported before an hour of compute. One that goes down later raises RegistryDown, too, within seconds
(`reaching`): MLflow alone would try for minutes. The caller decides what becomes of the work then.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tasks.core.errors import RaymillError, RegistryDown
from tasks.core.secrets import masked
from tasks.core.sections import PROJECT, TrackingConfig
from tasks.core.snapshots import Snapshot

REACH_TIMEOUT_S = 5.0
SAMPLE_S = 10.0  # between two samples of the machine's load
FINISH_S = 5.0  # the longest wait for the last sample
# MLflow's own are 7 retries, of two minutes each where nobody answers. A variable that is set already stays.
BOUNDS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
# Packages whose errors mean that a database, a server or a bucket did not answer as it should.
REMOTE = ("alembic", "botocore", "boto3", "google", "requests", "sqlalchemy", "urllib3")
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the latter for a missing alias


def tracking_uri(config: TrackingConfig) -> str:
    """Return tracking.uri, else MLFLOW_TRACKING_URI, else SQLite in mlruns/."""
    return config.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{PROJECT / 'mlruns' / 'mlflow.db'}"


@dataclass(frozen=True)
class Tracker:
    """A connection to MLflow and this flow run's parent run."""

    client: Any
    uri: str
    experiment_id: str
    run_id: str

    @classmethod
    def open(cls, config: TrackingConfig, run_name: str, tags: Mapping[str, str]) -> Tracker:
        """Connect, make the experiment if there is none, start the parent run. Raises RegistryError."""
        uri = tracking_uri(config)
        client = connect(uri)
        with reaching(uri, anything=True):
            earlier = client.get_experiment_by_name(config.experiment)
            experiment = (
                earlier.experiment_id if earlier else client.create_experiment(config.experiment, _artifacts(uri))
            )
            run = client.create_run(experiment, run_name=run_name, tags={k: masked(v) for k, v in tags.items()})
        return cls(client, uri, experiment, run.info.run_id)

    def child(self, name: str, parent: str | None = None, tags: Mapping[str, str] | None = None) -> str:
        """Start a run below the parent run (or another); returns its id."""
        below = {"mlflow.parentRunId": parent or self.run_id, **(tags or {})}
        return str(self.client.create_run(self.experiment_id, run_name=name, tags=below).info.run_id)

    def has_finished(self, **tags: str) -> bool:
        """Whether the experiment has a finished run with these tags."""
        query = " and ".join(["attributes.status = 'FINISHED'", *(f"tags.`{k}` = '{v}'" for k, v in tags.items())])
        return bool(self.client.search_runs([self.experiment_id], query, max_results=1))

    def log(
        self,
        run_id: str,
        *,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        curves: Mapping[str, Sequence[float | None]] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log a run's values in as few requests as MLflow allows (1,000 metrics, 100 parameters each).

        curves: a value for each step, None where there is none.
        """
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        points = [Metric(k, float(v), now, 0) for k, v in (metrics or {}).items()]
        points += [
            Metric(k, float(v), now, i) for k, vs in (curves or {}).items() for i, v in enumerate(vs) if v is not None
        ]
        parameters = [Param(k, masked(str(v))[:6000]) for k, v in (params or {}).items()]
        labels = [RunTag(k, masked(str(v))[:5000]) for k, v in (tags or {}).items()]
        for i in range(max(-(-len(points) // 900), -(-len(parameters) // 90), -(-len(labels) // 90))):
            self.client.log_batch(
                run_id,
                points[900 * i : 900 * (i + 1)],
                parameters[90 * i : 90 * (i + 1)],
                labels[90 * i : 90 * (i + 1)],
            )

    def log_inputs(self, run_id: str, snapshots: Iterable[Snapshot]) -> None:
        """Log snapshots as MLflow data set inputs: name, digest and folder."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(name=s.stage, digest=s.digest[:36], source_type="local", source=f'{{"uri": "{s.folder}"}}'),
                [InputTag("mlflow.data.context", "training")],
            )
            for s in snapshots
        ]
        self.client.log_inputs(run_id, inputs)

    def log_files(self, run_id: str, files: Iterable[Path], folder: str) -> None:
        for file in files:
            self.client.log_artifact(run_id, str(file), folder)

    def end(self, run_id: str, status: str = "FINISHED") -> None:
        self.client.set_terminated(run_id, status)


def connect(uri: str) -> Any:
    """Connect to a server or database; makes a SQLite database's folder. Raises RegistryDown if it is down."""
    for name, value in {**BOUNDS, "MLFLOW_DISABLE_TELEMETRY": "true"}.items():
        os.environ.setdefault(name, value)
    reach(uri)
    import logging

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    from mlflow import MlflowClient

    with reaching(uri, anything=True):
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def reach(uri: str) -> None:
    """Raise RegistryDown unless a server answers at this address, within seconds; does not import MLflow."""
    place = urlsplit(uri)
    try:
        if place.scheme in ("http", "https"):
            import requests

            # Any answer will do, also that of a proxy which asks for a password: the client sends it.
            requests.get(uri, timeout=REACH_TIMEOUT_S, stream=True, allow_redirects=False).close()
        elif place.hostname and place.port:
            import socket

            socket.create_connection((place.hostname, place.port), timeout=REACH_TIMEOUT_S).close()
    except OSError as error:
        if "SSL" not in type(error).__name__:  # a server answers; MLflow has its own settings for certificates
            raise _unreachable(uri, error) from error


@contextmanager
def reaching(uri: str, *, anything: bool = False) -> Iterator[None]:
    """Translate errors of MLflow, its database or its artifact store when down to RegistryDown; or (`anything`) all.

    `anything` is for the first request to an address: its errors come from the address, a password or a version.
    """
    try:
        yield
    except RaymillError:
        raise
    except Exception as error:
        if not (anything or is_outage(error)):
            raise
        raise _unreachable(uri, error) from error


def is_outage(error: Exception) -> bool:
    """Whether the error comes from a server, a network or a disk, and not from the request."""
    status = getattr(error, "get_http_status_code", None)  # an MlflowException; 500 also where nobody answered
    if status is not None:
        # A refusal of MLflow itself is JSON; any other answer comes from a gateway, or from another server.
        stranger = str(error).startswith("API request to endpoint")
        return stranger or int(status()) >= 500 or int(status()) == 429
    return isinstance(error, OSError) or type(error).__module__.startswith(REMOTE)


def is_refusal(error: Exception) -> bool:
    """Whether MLflow itself refuses a request."""
    return type(error).__module__.startswith("mlflow")


def gone(tracker: Tracker) -> str:
    """Return what happened to the parent run if it was deleted under way; "" if it is there, or nobody answers."""
    try:
        run = tracker.client.get_run(tracker.run_id)
    except Exception as error:
        deleted = getattr(error, "error_code", "") in ABSENT
        return "its MLflow run was removed for good" if deleted else ""
    if run.info.lifecycle_stage == "active":
        return ""
    return f"its MLflow run was deleted; `mlflow runs restore --run-id {tracker.run_id}` brings it back"


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


def read_text(client: Any, run_id: str, path: str) -> str:
    """Read a small text artifact of a run; "" if it is gone."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        try:
            return Path(client.download_artifacts(run_id, path, folder)).read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
        except Exception as error:
            if is_outage(error):
                raise
            return ""


def _artifacts(uri: str) -> str | None:
    if not uri.startswith("sqlite:///"):
        return None  # a server knows where its artifacts go
    return (Path(uri.removeprefix("sqlite:///")).resolve().parent / "artifacts").as_uri()


def _unreachable(uri: str, error: Exception) -> RegistryDown:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if match := re.search(r"\[Errno -?\d+\] [\w ]+|timed out", reason):
        reason = match[0]  # the rest is names of classes
    return RegistryDown(
        f"MLflow cannot be used: {reason}",
        where=uri,
        fix="check tracking.uri or MLFLOW_TRACKING_URI, and that the server is up",
    )
