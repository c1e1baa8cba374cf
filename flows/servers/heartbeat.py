"""Runs of which nobody hears any more: without this, Prefect shows them as running for ever.

A running flow sends a heartbeat every HEARTBEAT_S. An automation on Prefect's server, the one that Prefect's
documentation advises for zombie flow runs, waits SILENT_S after each for the next one or for the end of the run, and
else sets the run's state to Crashed. So a machine that went down shows within about three minutes.

The automation is for our own flows alone, and only those send heartbeats that often: prefect.yaml sets it for runs of
a deployment, `flows.run.environment` for `raymill run`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

NAME = "raymill: crashed without a heartbeat"
FLOWS = ("etl-train", "bench")
HEARTBEAT_S = 30  # Prefect takes no less
SILENT_S = 90
HEARTBEATS = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S)}  # in the environment of whatever runs a flow
HEARTBEAT = "prefect.flow-run.heartbeat"
# The names of states, not their types: a flow that ran out of time is TimedOut, not Failed.
ENDS = ("Completed", "Failed", "Crashed", "Cancelled", "Cancelling", "TimedOut", "Paused", "Suspended")


def ensure_automation(client: SyncPrefectClient, silent_s: float = SILENT_S) -> UUID:
    """Make the automation, or make it as it should be; returns its id. However often it is called there is one.

    Actions that somebody added (a message, say) stay, and one that was switched off stays so.
    """
    wanted = automation(silent_s)
    known = client.read_automations_by_name(NAME)
    for other in known[1:]:  # two calls at once may have made two
        client.delete_automation(other.id)
    if not known:
        return client.create_automation(wanted)
    found = known[0]
    added = [action for action in found.actions if action.type != wanted.actions[0].type]
    wanted = wanted.model_copy(update={"actions": [*wanted.actions, *added], "enabled": found.enabled})
    if _as_json(found) != _as_json(wanted):
        client.update_automation(found.id, wanted)
    return found.id


def automation(silent_s: float = SILENT_S) -> AutomationCore:
    """What the server is to do when a run of ours is silent for so many seconds."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    return AutomationCore(
        name=NAME,
        description=f"Made by raymill. A run of {' or '.join(FLOWS)} without a heartbeat for {silent_s:g} s is dead.",
        trigger=EventTrigger(
            posture=Posture.Proactive,
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            # Other flows may send their heartbeats three minutes apart, as is Prefect's default.
            match_related=ResourceSpecification(
                {"prefect.resource.role": ["flow"], "prefect.resource.name": list(FLOWS)}
            ),
            after={HEARTBEAT},
            expect={HEARTBEAT, *(f"prefect.flow-run.{name}" for name in ENDS)},
            for_each={"prefect.resource.id"},
            threshold=1,
            within=timedelta(seconds=silent_s),
        ),
        # Not by force: the server refuses it for a run that ended meanwhile.
        actions=[
            ChangeFlowRunState(  # type: ignore[call-arg]  # those that are left out have defaults
                state=StateType.CRASHED, message=f"No heartbeat for {silent_s:g} s: its process is gone."
            )
        ],
    )


def _as_json(told: AutomationCore) -> dict[str, Any]:
    """What decides of an automation; lists that are sets come in any order, and the server adds ids."""
    parts = told.model_dump(mode="json", include={"name", "description", "enabled", "trigger", "actions"})
    trigger = parts["trigger"]
    for name in ("after", "expect", "for_each"):
        trigger[name] = sorted(trigger[name])
    trigger.pop("id", None)
    return parts
