"""Notify of what happens in the model registry: a champion promoted, by gates or by hand, blocked, or rolled back."""

from __future__ import annotations

from typing import Any

from flows.run import notify
from tasks.engines.registry import BLOCK, BY_HAND, PROMOTE, ROLLBACK, Audit
from tasks.settings import Settings

EVENTS = {PROMOTE: "promoted", BY_HAND: "promoted", BLOCK: "blocked", ROLLBACK: "rolled-back"}
SAID = {
    PROMOTE: "version {version} of {model} is champion",
    BY_HAND: "version {version} of {model} is champion, by hand",
    BLOCK: "version {version} of {model} is blocked by the gates",
    ROLLBACK: "version {to_version} of {model} is champion again, rolled back",
}


def tell(settings: Settings, model: str, audit: Audit) -> str:
    """Post a decision on a registered model. Returns the last problem, or "": it never raises."""
    try:
        return notify.send(settings, EVENTS[audit.action], message(model, audit))
    except Exception as error:
        return f"{type(error).__name__}, no message was sent"


def message(model: str, audit: Audit) -> dict[str, Any]:
    """Return the message about a decision. An unknown value is null."""
    facts = {name: getattr(audit, name) or None for name in ("version", "from_version", "to_version", "who", "when")}
    said = SAID[audit.action].format(model=model, **facts)
    before = f", before it version {audit.from_version}" if audit.from_version not in ("", audit.to_version) else ""
    failed = [str(gate["name"]) for gate in audit.gates if gate.get("passed") is False] if audit.action == BLOCK else []
    return {
        "text": f"{said}{before}\n{audit.reason}",
        "model": model,
        "action": audit.action,
        **facts,
        "reason": audit.reason,
        "failed_gates": failed,
        "metrics": dict(audit.metrics),
    }
