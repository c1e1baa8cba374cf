"""Start a run of `etl-train/default` for a cause, once for each: what the watch found, or new files.

ROOT/retrain/CAUSE.json says why a run was started, when and which; it is written once Prefect's server has taken the
run. The server is given the cause as idempotency key, so that a process that dies in between starts no second one. A
run that was cancelled before it began (the deployment allows one at a time, and the scheduled one may have been faster)
counts for nothing: the next look starts another.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

from flows.run import notify
from flows.servers.prefect_http import ask
from flows.servers.services import basic
from tasks.core.errors import TransientError
from tasks.core.whole_files import write_whole
from tasks.settings import Settings, load_settings

FOLDER, EVENT = "retrain", "retraining"
DEPLOYMENT = "etl-train/default"
TAG = "retrain"  # of the runs that are started here
FILES = "files"


@dataclass(frozen=True)
class Cause:
    """Why to train again. name: of the cause, in letters, digits and dashes; kind: of `retrain.when`. model, dataset,
    target: what a loss is of; nothing is started if the deployment trains another."""

    name: str
    kind: str
    text: str
    model: str = ""
    dataset: str = ""
    target: str = ""


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
    if (root / FOLDER / f"{cause.name}.json").exists() and not _cancelled(settings, cause.name, api):
        return True
    try:
        if problem := _not_now(settings, root, cause, api) or _start(settings, root, cause, api):
            say(f"no run is started for {cause.text}: {problem}")
            return False
    except Exception as error:  # the work is committed, and must not fail by this
        what = error.what if isinstance(error, TransientError) else f"{type(error).__name__}: {error}"
        say(f"no run is started for {cause.text}: {what}; raymill up deploys {DEPLOYMENT}")
        return False
    say(f"a run of {DEPLOYMENT} is started: {cause.text}")
    if problem := notify.send(settings, EVENT, {**asdict(cause), "text": f"{DEPLOYMENT} is started: {cause.text}"}):
        say(f"no notification of it: {problem}")
    return True


def _not_now(settings: Settings, root: Path, cause: Cause, api: str | None) -> str:
    if cause.kind == FILES:
        return ""
    pause = timedelta(hours=settings.retrain.pause_hours)
    for earlier in started(root):
        if earlier.get("kind") == FILES or earlier.get("name") == cause.name:
            continue
        lately = datetime.now(UTC) - datetime.fromisoformat(earlier["when"]) < pause
        if lately and not _cancelled(settings, str(earlier.get("name")), api):
            return f"one was at {earlier['when']} for {earlier['text']}, and retrain.pause_hours have not passed"
    return ""


def _start(settings: Settings, root: Path, cause: Cause, api: str | None) -> str:
    """Ask the server for a run and record it; returns why it is not the time, or ""."""
    api = api or _api()
    if not api:
        return "there is no Prefect server"
    authorization = basic(settings.services)
    deployment = ask(api, authorization, f"deployments/name/{DEPLOYMENT}")
    if cause.model and (trained := _trained(deployment)) != (cause.model, cause.dataset, cause.target):
        return f"it trains {trained[0]} ({trained[2]} of {trained[1]}), which is another model"
    runs = _asking(settings, api, deployment)
    key, earlier = _attempt(runs, cause.name)
    if earlier:  # of a process that died before it had recorded it
        run = earlier
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


def _asking(settings: Settings, api: str, deployment: dict[str, Any]) -> Callable[..., list[dict[str, Any]]]:
    """Return a function that finds the deployment's runs."""

    def runs(**those: Any) -> list[dict[str, Any]]:
        asked = {"flow_runs": {"deployment_id": {"any_": [deployment["id"]]}, **those}}
        found: list[dict[str, Any]] = ask(api, basic(settings.services), "flow_runs/filter", asked)
        return found

    return runs


def _attempt(runs: Callable[..., list[dict[str, Any]]], cause: str) -> tuple[str, dict[str, Any] | None]:
    """Return the idempotency key for a cause, and the run that has it; one that never ran gives way to the next key."""
    for number in count(1):
        key = f"raymill-{cause}" + (f"-{number}" if number > 1 else "")
        found = runs(idempotency_key={"any_": [key]})
        if not found or not never_ran(found[0]):
            break
    return key, found[0] if found else None


def never_ran(run: Mapping[str, Any]) -> bool:
    """Whether a run, as Prefect's API describes it, was cancelled before it began."""
    # Prefect gives a start_time to a run that ended without having run, too.
    return run.get("state_type") == "CANCELLED" and not run.get("run_count")


def _cancelled(settings: Settings, cause: str, api: str | None) -> bool:
    """Whether the run that was recorded for a cause was cancelled before it began; False where no server tells."""
    try:
        if not (api := api or _api()):
            return False
        deployment = ask(api, basic(settings.services), f"deployments/name/{DEPLOYMENT}")
        found = _attempt(_asking(settings, api, deployment), cause)
        return found[0] != f"raymill-{cause}" and found[1] is None
    except Exception:  # it was started, as far as anyone knows
        return False


def _trained(deployment: dict[str, Any]) -> tuple[str, str, str]:
    """Return the registered model, the data set and the target that the deployment trains."""
    given = deployment.get("parameters") or {}
    if stored := given.get("settings"):
        settings = Settings.model_validate(stored)
    else:
        settings = load_settings(overrides=given.get("overrides") or [])
    changes = {"dataset": given["dataset"]} if given.get("dataset") else {}
    data, target = settings.data.model_copy(update=changes), settings.features.target
    return settings.registry.name_for(target, data.called), data.called, target


def _api() -> str:
    """Return the address of Prefect's API that this process uses."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    from prefect.settings import get_current_settings

    return str(get_current_settings().api.url or "")
