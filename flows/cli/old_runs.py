"""`raymill gc` with `storage.keep_days`: list, and remove, old runs in MLflow and Prefect."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from flows.cli import old_mlflow_runs as in_mlflow
from flows.cli import old_prefect_runs as in_prefect
from flows.run.record import read_record
from tasks.core.errors import TransientError
from tasks.engines import tracking
from tasks.settings import Settings


def remove_old_runs(
    settings: Settings, console: Console, days: int, *, dry_run: bool, now: datetime | None = None
) -> None:
    """Print and remove the runs that are older than so many days.

    Raises RegistryError if MLflow does not answer; TransientError if Prefect's server does not or refuses, at the end.
    """
    before = (now or datetime.now(UTC)) - timedelta(days=days)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    uri = tracking.tracking_uri(settings.tracking)
    trees: list[in_mlflow.Tree] = []
    kept: list[in_mlflow.Tree] = []
    client: Any = None
    if not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists():
        client = tracking.connect(uri)
        with tracking.reaching(uri):
            trees, kept = in_mlflow.old_and_kept(client, settings, int(before.timestamp() * 1000))
    api = os.environ.get("PREFECT_API_URL", "")
    flow_runs: list[Mapping[str, Any]] = []
    refused: TransientError | None = None
    if api:
        kept_ids, old_ids = ({tree.tags.get(in_mlflow.FLOW_RUN, "") for tree in of} for of in (kept, trees))
        ours = kept_ids | old_ids | _recorded(settings)
        try:
            flow_runs = in_prefect.old_flow_runs(api, _authorization(), before, kept_ids, ours)
        except TransientError as error:  # MLflow's runs can be removed all the same
            refused = error

    for tree in trees:
        began = datetime.fromtimestamp(tree.began_ms / 1000, UTC)
        say(f"MLflow run {tree.name}, {began:%Y-%m-%d}, and {len(tree.removable) - 1:,} below it")
    for run in flow_runs:
        say(f"Prefect flow run {run['name']}, {run['end_time'][:10]}")
    ids = [run_id for tree in trees for run_id in tree.removable]
    gone = "would be removed" if dry_run else "removed"
    if not dry_run:
        _remove(settings, client, ids, api, [str(run["id"]) for run in flow_runs], say)
    older = f"older than {days:,} days"
    say(f"{len(ids):,} run(s) of MLflow and {len(flow_runs):,} of Prefect {older} {gone}")
    if not api:
        say("Prefect's runs were not looked at: no server is up")
    if refused:
        raise refused


def _recorded(settings: Settings) -> set[str]:
    """Return the flow runs that the records of runs name; broken records are passed over."""
    found = set()
    for path in (settings.storage.path / "runs").glob("*.json"):
        with suppress(OSError, ValueError, TypeError, AttributeError):
            found.add(read_record(path).flow_run_id)
    return found


def _remove(settings: Settings, client: Any, ids: Sequence[str], api: str, flow_runs: Sequence[str], say: Any) -> None:
    if ids:
        with tracking.reaching(tracking.tracking_uri(settings.tracking)):
            for_good = in_mlflow.remove(client, ids, settings)
        if not for_good:
            say("MLflow's runs are marked as deleted; `mlflow gc` beside its database removes them for good")
    if flow_runs:
        in_prefect.remove(api, _authorization(), flow_runs)


def _authorization() -> str:
    """Return the header for a Prefect server with a password or a key, as Prefect's client does; "" without one."""
    if pair := os.environ.get("PREFECT_API_AUTH_STRING"):
        return "Basic " + base64.b64encode(pair.encode()).decode()
    key = os.environ.get("PREFECT_API_KEY")
    return f"Bearer {key}" if key else ""
