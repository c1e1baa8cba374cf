"""Tells a web address (`notify.webhook`) how a run of `etl-train` ended: done, failed, crashed or cancelled.

The message is JSON that Slack and what imitates it understand ("text"), with the facts beside it for whoever wants
them. What is said of a run comes from its record in ROOT/runs: the process that tells of a crash may be another one
than the run's. Nobody's silence fails a run.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

from flows.run.record import RunRecord, read_record
from tasks.core import secrets
from tasks.core.settings import ENV_PREFIX
from tasks.settings import Settings, load_settings

TIMEOUT_S = 5.0  # of a connection, and of an answer
PAUSES_S = (1.0, 3.0)  # before the second and the third attempt
PATIENCE_S = 25.0  # all in all, whatever the server does
WEBHOOK_VARIABLE = f"{ENV_PREFIX}NOTIFY__WEBHOOK"

# The settings of the latest flow run of this context, by its id.
_KNOWN: ContextVar[tuple[str, Settings] | None] = ContextVar("settings of a flow run", default=None)


def remember(flow_run_id: str, settings: Settings) -> None:
    """Keep a flow run's settings for the message at its end: Prefect's server is not told what is secret in them."""
    _KNOWN.set((flow_run_id, settings))


def tell_how_it_ended(flow: Any, flow_run: Any, state: Any) -> None:
    """Prefect's hook for all ways to end."""
    try:
        settings = _settings_of(flow_run)
        webhook = _webhook(settings)
        if webhook is None:
            return
        record = _record_of(settings, str(flow_run.id)) if settings else RunRecord()
        secrets.remember(webhook, settings=settings)
        problem = post(webhook, secrets.masked_within(message(flow_run, state, record, settings)))
    except Exception as error:
        problem = f"{type(error).__name__}, nothing was sent"
    if problem:
        from prefect.logging import get_logger

        get_logger("raymill").warning("nobody was told how the run ended: %s", problem)


def message(flow_run: Any, state: Any, record: RunRecord, settings: Settings | None) -> dict[str, Any]:
    """What is posted. Seconds are wall time; rows are those that were read; what is not known is null."""
    parameters = flow_run.parameters or {}
    word = "cancelled" if state.is_cancelling() or state.is_cancelled() else str(state.type.value).lower()
    stage, error = _failure(state, record) if word in ("failed", "crashed") else (None, None)
    told = {
        "flow_run": flow_run.name,
        "flow_run_id": str(flow_run.id),
        "run_id": record.run_id or None,
        "state": word,
        "dataset": parameters.get("dataset") or (settings and settings.data.dataset),
        "rows": record.rows_in or None,
        "seconds": record.wall_s or None,
        "measure": _measure(record.metrics),
        "decision": record.decision,
        "failed_stage": stage,
        "error": error,
        "prefect": _prefect_page(flow_run),
        "mlflow": record.mlflow_page,
    }
    return {"text": _text(told), **told}


def _text(told: Mapping[str, Any]) -> str:
    where = f" in {told['failed_stage']}" if told["failed_stage"] else ""
    facts = [told["dataset"]]
    facts += [f"{told['rows']:,} rows"] if told["rows"] else []
    facts += [f"{told['seconds']:,.0f} s"] if told["seconds"] is not None else []
    facts += ["{name} {value:.4f}".format(**told["measure"])] if told["measure"] else []
    lines = [f"{told['flow_run']} {told['state']}{where}: {', '.join(f for f in facts if f)}"]
    lines += [told["error"]] if told["error"] else []
    lines += [f"Model {told['decision']}"] if told["decision"] else []
    return "\n".join([*lines, *(told[page] for page in ("prefect", "mlflow") if told[page])])


def _failure(state: Any, record: RunRecord) -> tuple[str | None, str | None]:
    """The stage that failed, or was at work, and the first line of the error."""
    # Prefect puts words of its own before the error.
    said = re.sub(r"^(Flow run encountered an exception|Execution was [^:]*): ", "", str(state.message or ""))
    stage, error = (record.failed["stage"], record.failed["error"]) if record.failed else ("", "")
    lines = (error or said).strip().splitlines()
    return stage or ", ".join(record.at_work) or None, lines[0] if lines else None


def _measure(metrics: Mapping[str, Mapping[str, float]] | None) -> dict[str, Any] | None:
    """The first measure of the target, of the tuned model."""
    from tasks.domain.metrics import NAMES

    for name, of in (metrics or {}).items():
        if "tuned" in of:
            return {"name": NAMES.get(name, name), "value": of["tuned"]}
    return None


def _prefect_page(flow_run: Any) -> str | None:
    from prefect.utilities.urls import url_for

    with suppress(Exception):
        return secrets.address(url_for("flow-run", obj_id=flow_run.id) or "") or None
    return None


def _settings_of(flow_run: Any) -> Settings | None:
    """Those that the run has, or as good as can be told; None where they cannot be read, which may be why it failed."""
    known = _KNOWN.get()
    if known and known[0] == str(flow_run.id):
        return known[1]
    parameters = flow_run.parameters or {}
    given = parameters.get("settings")
    if given:
        with suppress(Exception):
            return given if isinstance(given, Settings) else Settings.model_validate(given)
    for overrides in (parameters.get("overrides") or [], []):
        with suppress(Exception):
            return load_settings(overrides=overrides)
    return None


def _webhook(settings: Settings | None) -> str | None:
    if settings and settings.notify.webhook:
        return settings.notify.webhook.get_secret_value()
    return os.environ.get(WEBHOOK_VARIABLE)  # also of a run whose settings are wrong, or came without what is secret


def _record_of(settings: Settings, flow_run_id: str) -> RunRecord:
    """The record of the flow run; empty if it ended before it had one."""
    found = (settings.storage.path / "runs").glob("*.json")
    for path in sorted(found, key=lambda path: path.name, reverse=True):
        with suppress(OSError, ValueError):
            record = read_record(path)
            if record.flow_run_id == flow_run_id:
                return record
    return RunRecord()


def post(url: str, told: Mapping[str, Any]) -> str:
    """Post as JSON, at most three times within PATIENCE_S; what was wrong in the end, without the address, or ""."""
    if urlsplit(url).scheme not in ("http", "https"):
        return "notify.webhook is not a http or https address"
    problems = ["no answer in time"]
    # A server can make each part of its answer take just not too long: the thread is left behind then.
    thread = threading.Thread(target=lambda: problems.append(_post(url, told)), name="notify", daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return problems[-1]


def _post(url: str, told: Mapping[str, Any]) -> str:
    import httpx

    problem = ""
    for pause in (*PAUSES_S, None):
        try:
            # What the server says is not wanted: its headers are enough. Whoever redirects is not who was meant.
            with httpx.stream("POST", url, json=told, timeout=TIMEOUT_S, follow_redirects=False) as answer:
                if answer.is_success:
                    return ""
                problem = f"the webhook answers {answer.status_code}"
                if answer.status_code < 500 and answer.status_code != 429:
                    return problem
        except httpx.TransportError as error:
            problem = f"the webhook cannot be reached ({type(error).__name__})"
        except Exception as error:  # an address that cannot be one; its text has the address in it
            return f"the webhook cannot be used ({type(error).__name__})"
        if pause is not None:
            time.sleep(pause)
    return problem
