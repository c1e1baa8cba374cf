"""Start a run of `etl-train/default` for a cause, once for each: what the watch found, or new files.

ROOT/retrain/CAUSE.json says why a run was started, when and which; it is written once Prefect's server has taken the
run. The server is given the cause as idempotency key, so that a process that dies in between starts no second one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flows.run import notify
from flows.servers.prefect_http import ask
from flows.servers.services import basic
from tasks.core.errors import TransientError
from tasks.core.whole_files import write_whole
from tasks.settings import Settings

FOLDER, EVENT = "retrain", "retraining"
DEPLOYMENT = "etl-train/default"
TAG = "retrain"  # of the runs that are started here
FILES = "files"


@dataclass(frozen=True)
class Cause:
    """Why to train again. name: of the cause, in letters, digits and dashes; kind: of `retrain.when`."""

    name: str
    kind: str
    text: str


def started(root: Path) -> list[dict[str, Any]]:
    """Return what was started for which cause, the latest first. root: storage.root of the runs that train."""
    found = []
    for path in (root / FOLDER).glob("*.json"):
        with suppress(OSError, ValueError):
            found.append(json.loads(path.read_text()))
    return sorted(found, key=lambda one: str(one.get("when")), reverse=True)


def start(settings: Settings, root: Path, cause: Cause, say: Callable[[str], None], api: str | None = None) -> bool:
    """Start a run, unless one was for this cause; returns whether the cause is dealt with. Never raises.

    One for a loss waits until `retrain.pause_hours` after the last. While a run is at work, or about to be, none is
    started: the cause stays open, and the next look finds it again. api: the address of Prefect's API; that of this
    process if not given.
    """
    if (root / FOLDER / f"{cause.name}.json").exists():
        return True
    try:
        if problem := _not_now(settings, root, cause) or _start(settings, root, cause, api):
            say(f"no run is started for {cause.text}: {problem}")
            return False
    except Exception as error:  # the work is committed, and must not fail by this
        what = error.what if isinstance(error, TransientError) else f"{type(error).__name__}: {error}"
        say(f"no run is started for {cause.text}: {what}; raymill up deploys {DEPLOYMENT}")
        return False
    say(f"a run of {DEPLOYMENT} is started: {cause.text}")
    if problem := notify.send(settings, EVENT, {"text": f"{DEPLOYMENT} is started: {cause.text}", **asdict(cause)}):
        say(f"no notification of it: {problem}")
    return True


def _not_now(settings: Settings, root: Path, cause: Cause) -> str:
    if cause.kind == FILES:
        return ""
    pause = timedelta(hours=settings.retrain.pause_hours)
    for earlier in started(root):
        if earlier.get("kind") != FILES and datetime.now(UTC) - datetime.fromisoformat(earlier["when"]) < pause:
            return f"one was at {earlier['when']} for {earlier['text']}, and retrain.pause_hours have not passed"
    return ""


def _start(settings: Settings, root: Path, cause: Cause, api: str | None) -> str:
    """Ask the server for a run and record it; returns why it is not the time, or ""."""
    api = api or _api()
    if not api:
        return "there is no Prefect server"
    authorization = basic(settings.services)
    deployment = ask(api, authorization, f"deployments/name/{DEPLOYMENT}")
    key, of_it = f"raymill-{cause.name}", {"deployment_id": {"any_": [deployment["id"]]}}

    def runs(**those: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = ask(api, authorization, "flow_runs/filter", {"flow_runs": {**of_it, **those}})
        return found

    if earlier := runs(idempotency_key={"any_": [key]}):  # of a process that died before it had recorded it
        run = earlier[0]
    elif runs(state={"type": {"any_": ["PENDING", "RUNNING"]}}):
        return "one is at work"
    elif runs(state={"type": {"any_": ["SCHEDULED"]}}, tags={"all_": [TAG]}):
        return "one is about to start for another cause"
    else:  # the deployment allows one run at a time, and would cancel this one
        asked = {"idempotency_key": key, "tags": ["raymill", TAG, cause.kind]}
        run = ask(api, authorization, f"deployments/{deployment['id']}/create_flow_run", asked)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    record = {**asdict(cause), "when": when, "flow_run_id": run["id"], "flow_run": run.get("name")}
    write_whole(root / FOLDER / f"{cause.name}.json", json.dumps(record, indent=1), synced=True)
    return ""


def _api() -> str:
    """Return the address of Prefect's API that this process uses."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    from prefect.settings import get_current_settings

    return str(get_current_settings().api.url or "")
