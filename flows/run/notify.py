"""Notify a web address (`notify.webhook`) how a run of `etl-train` ended: done, failed, crashed or cancelled.

Other events (`notify.events`) are posted there in the same way by `send`. The message is JSON for Slack and compatible
services ("text"), with the facts in further keys. Those of a run come from its record in ROOT/runs, since a crash may
be reported by another process than the run's. A failed notification never fails a run.
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

from flows.run import warned
from flows.run.record import RunRecord, read_record
from tasks.core import secrets
from tasks.core.settings import ENV_PREFIX
from tasks.settings import Settings, load_settings

TIMEOUT_S = 5.0  # for connecting, and for the response
PAUSES_S = (1.0, 3.0)  # before the second and the third attempt
PATIENCE_S = 25.0  # for all attempts together
IN_TEXT = 5  # warnings that the text lists
ENDED = "ended"
WEBHOOK_VARIABLE = f"{ENV_PREFIX}NOTIFY__WEBHOOK"

# The settings of the latest flow run of this context, by its id.
_KNOWN: ContextVar[tuple[str, Settings] | None] = ContextVar("settings of a flow run", default=None)


def remember(flow_run_id: str, settings: Settings) -> None:
    """Store a flow run's settings for the message at its end: those on Prefect's server lack the secrets."""
    _KNOWN.set((flow_run_id, settings))


def tell_how_it_ended(flow: Any, flow_run: Any, state: Any) -> None:
    """Post how the run ended: Prefect's hook for every final state."""
    try:
        settings = _settings_of(flow_run)
        record = record_of(settings, str(flow_run.id)) if settings else RunRecord()
        problem = send(settings, ENDED, message(flow_run, state, record, settings))
    except Exception as error:
        problem = f"{type(error).__name__}, no message was sent"
    if problem:
        from prefect.logging import get_logger

        get_logger("raymill").warning("no notification of how the run ended: %s", problem)


def send(settings: Settings | None, event: str, facts: Mapping[str, Any]) -> str:
    """Post a message about an event, masked, if there is a webhook and the event is one to post.

    facts: the message, with its `text`. Returns the last problem, or "".
    """
    webhook = _webhook(settings)
    if webhook is None or (settings and event not in settings.notify.events):
        return ""
    secrets.remember(webhook, settings=settings)
    return post(webhook, secrets.masked_within({"text": facts["text"], "event": event, **facts}))


def message(flow_run: Any, state: Any, record: RunRecord, settings: Settings | None) -> dict[str, Any]:
    """Return the message. seconds: wall time. rows: those that were read. Unknown values are null."""
    parameters = flow_run.parameters or {}
    word = "cancelled" if state.is_cancelling() or state.is_cancelled() else str(state.type.value).lower()
    stage, error = _failure(state, record) if word in ("failed", "crashed") else (None, None)
    facts = {
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
        "warnings": record.warnings[: warned.SHOWN],
        "prefect": _prefect_page(flow_run),
        "mlflow": record.mlflow_page,
    }
    return {"text": _text(facts, warned.lines(record.warnings, IN_TEXT)), **facts}


def _text(facts: Mapping[str, Any], warnings: list[str]) -> str:
    where = f" in {facts['failed_stage']}" if facts["failed_stage"] else ""
    parts = [facts["dataset"]]
    parts += [f"{facts['rows']:,} rows"] if facts["rows"] else []
    parts += [f"{facts['seconds']:,.0f} s"] if facts["seconds"] is not None else []
    parts += ["{name} {value:.4f}".format(**facts["measure"])] if facts["measure"] else []
    lines = [f"{facts['flow_run']} {facts['state']}{where}: {', '.join(p for p in parts if p)}"]
    lines += [facts["error"]] if facts["error"] else []
    lines += [f"Model {facts['decision']}"] if facts["decision"] else []
    lines += [f"Warning: {text}" for text in warnings]
    return "\n".join([*lines, *(facts[page] for page in ("prefect", "mlflow") if facts[page])])


def _failure(state: Any, record: RunRecord) -> tuple[str | None, str | None]:
    """Return the stage that failed, or was running, and the first line of the error."""
    # Prefect puts a prefix before the error.
    message = re.sub(r"^(Flow run encountered an exception|Execution was [^:]*): ", "", str(state.message or ""))
    stage, error = (record.failed["stage"], record.failed["error"]) if record.failed else ("", "")
    lines = (error or message).strip().splitlines()
    return stage or ", ".join(record.at_work) or None, lines[0] if lines else None


def _measure(metrics: Mapping[str, Mapping[str, float]] | None) -> dict[str, Any] | None:
    """Return the tuned model's value of the target's first measure."""
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
    """Return the run's settings, or the best guess; None if they cannot be read, which may be why the run failed."""
    known = _KNOWN.get()
    if known and known[0] == str(flow_run.id):
        return known[1]
    parameters = flow_run.parameters or {}
    settings = parameters.get("settings")
    if settings:
        with suppress(Exception):
            return settings if isinstance(settings, Settings) else Settings.model_validate(settings)
    for overrides in (parameters.get("overrides") or [], []):
        with suppress(Exception):
            return load_settings(overrides=overrides)
    return None


def _webhook(settings: Settings | None) -> str | None:
    """Return the address of the settings; the variable's where there are none, or those of a copy without secrets."""
    if settings is None or "webhook" not in settings.notify.model_fields_set:
        return os.environ.get(WEBHOOK_VARIABLE)
    return settings.notify.webhook.get_secret_value() if settings.notify.webhook else None


def record_of(settings: Settings, flow_run_id: str) -> RunRecord:
    """Return the flow run's record; an empty one if it ended before it had any."""
    records = (settings.storage.path / "runs").glob("*.json")
    for path in sorted(records, key=lambda path: path.name, reverse=True):
        with suppress(OSError, ValueError):
            record = read_record(path)
            if record.flow_run_id == flow_run_id:
                return record
    return RunRecord()


def post(url: str, body: Mapping[str, Any]) -> str:
    """Post `body` as JSON, with at most three attempts within PATIENCE_S; return the last problem, or "".

    The problem's text never has the address in it.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        return "notify.webhook is not an http or https address"
    problems = ["no answer in time"]
    # A slow server may keep each part of its answer within the timeout: the thread is abandoned then.
    thread = threading.Thread(target=lambda: problems.append(_post(url, body)), name="notify", daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return problems[-1]


def _post(url: str, body: Mapping[str, Any]) -> str:
    import httpx

    problem = ""
    for pause in (*PAUSES_S, None):
        try:
            # The status is enough: the body is not read. A redirect would lead to another server than the one set.
            with httpx.stream("POST", url, json=body, timeout=TIMEOUT_S, follow_redirects=False) as answer:
                if answer.is_success:
                    return ""
                problem = f"the webhook answers {answer.status_code}"
                if answer.status_code < 500 and answer.status_code != 429:
                    return problem
        except httpx.TransportError as error:
            problem = f"the webhook cannot be reached ({type(error).__name__})"
        except Exception as error:  # an invalid address, which the error's text would show
            return f"the webhook cannot be used ({type(error).__name__})"
        if pause is not None:
            time.sleep(pause)
    return problem
