"""Mark runs whose process is gone as crashed: without this, Prefect shows them as running or pending for ever.

A running flow sends a heartbeat every HEARTBEAT_S. An automation on Prefect's server, as Prefect's documentation
advises for zombie flow runs, waits SILENT_S after the start and after each heartbeat for the next one or for the end of
the run; if neither comes, it sets the run's state to Crashed. So a machine that went down shows within about three
minutes. A second automation does the same for a run that is Pending for PENDING_S: its machine went down before the run
began, no worker takes it up again, and it would hold the one place of its deployment.

The automations cover our own flows alone, and only they send heartbeats that often: prefect.yaml sets the interval for
runs of a deployment, `flows.run.environment` for `raymill run`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

NAME = "raymill: crashed without a heartbeat"
NAME_PENDING = "raymill: crashed before it began"
FLOWS = ("etl-train", "bench", "score")
HEARTBEAT_S = 30  # Prefect's minimum
SILENT_S = 90
PENDING_S = 300  # a process that starts on a busy machine is pending for a minute
HEARTBEATS = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S)}  # environment of processes that run a flow
HEARTBEAT = "prefect.flow-run.heartbeat"
# Names of states, not types: a flow that ran out of time has the name TimedOut and the type Failed.
PENDING, RUNNING = "prefect.flow-run.Pending", "prefect.flow-run.Running"
ENDS = ("Completed", "Failed", "Crashed", "Cancelled", "Cancelling", "TimedOut", "Paused", "Suspended")


def ensure_automation(client: SyncPrefectClient, silent_s: float = SILENT_S, pending_s: float = PENDING_S) -> UUID:
    """Create or update both automations; return the first one's id. Repeated calls leave exactly one of each.

    Actions that a user added (a message, say) stay, and a disabled automation stays disabled.
    """
    _ensure(client, pending_automation(pending_s))
    return _ensure(client, automation(silent_s))


def _ensure(client: SyncPrefectClient, ours: AutomationCore) -> UUID:
    existing = client.read_automations_by_name(ours.name)
    for other in existing[1:]:  # two simultaneous calls may have made two
        client.delete_automation(other.id)
    if not existing:
        return client.create_automation(ours)
    current = existing[0]
    added = [action for action in current.actions if action.type != ours.actions[0].type]
    ours = ours.model_copy(update={"actions": [*ours.actions, *added], "enabled": current.enabled})
    if _as_json(current) != _as_json(ours):
        client.update_automation(current.id, ours)
    return current.id


def automation(silent_s: float = SILENT_S) -> AutomationCore:
    """Return the automation: set one of our runs to Crashed after `silent_s` seconds without a heartbeat."""
    return _crash(
        NAME,
        f"A run of {' or '.join(FLOWS)} without a heartbeat for {silent_s:g} s is dead.",
        after={HEARTBEAT, RUNNING},
        expect={HEARTBEAT, RUNNING},
        within_s=silent_s,
        message=f"No heartbeat for {silent_s:g} s: its process is gone.",
    )


def pending_automation(pending_s: float = PENDING_S) -> AutomationCore:
    """Return the automation: set one of our runs to Crashed that is still Pending after `pending_s` seconds."""
    return _crash(
        NAME_PENDING,
        f"A run of {' or '.join(FLOWS)} that has not begun {pending_s:g} s after a worker took it is dead.",
        after={PENDING},
        expect={RUNNING, HEARTBEAT, "prefect.flow-run.Scheduled", "prefect.flow-run.AwaitingRetry"},
        within_s=pending_s,
        message=f"Pending for {pending_s:g} s: the process that was to run it is gone.",
    )


def _crash(
    name: str, description: str, *, after: set[str], expect: set[str], within_s: float, message: str
) -> AutomationCore:
    """Return an automation that crashes a run unless an expected event, or its end, follows within some time."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    return AutomationCore(
        name=name,
        description=f"Made by raymill. {description}",
        trigger=EventTrigger(
            posture=Posture.Proactive,
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            # Other flows may send their heartbeats three minutes apart, as is Prefect's default.
            match_related=ResourceSpecification(
                {"prefect.resource.role": ["flow"], "prefect.resource.name": list(FLOWS)}
            ),
            after=after,
            expect={*expect, *(f"prefect.flow-run.{end}" for end in ENDS)},
            for_each={"prefect.resource.id"},
            threshold=1,
            within=timedelta(seconds=within_s),
        ),
        # Not forced, so that the server refuses it for a run that has ended meanwhile.
        actions=[
            ChangeFlowRunState(  # type: ignore[call-arg]  # the omitted arguments have defaults
                state=StateType.CRASHED, message=message
            )
        ],
    )


def _as_json(automation: AutomationCore) -> dict[str, Any]:
    """Return an automation in a form to compare: without the server's ids, and with sets as sorted lists."""
    parts = automation.model_dump(mode="json", include={"name", "description", "enabled", "trigger", "actions"})
    trigger = parts["trigger"]
    for name in ("after", "expect", "for_each"):
        trigger[name] = sorted(trigger[name])
    trigger.pop("id", None)
    return parts
