"""Runs without a heartbeat become Crashed, and there is exactly one automation that does it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import DoNothing
from prefect.states import Pending, Running, Scheduled

from flows.servers.heartbeat import HEARTBEATS, NAME, NAME_PENDING, automation, ensure_automation
from tests.support.prefect_server import connected, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def client(server: str) -> Iterator[SyncPrefectClient]:
    with connected() as client:
        yield client


def test_however_often_it_is_made_there_is_one_automation(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ensure_automation(client)
    with monkeypatch.context() as patch:
        patch.setattr(client, "update_automation", lambda *_: pytest.fail("nothing was to be changed"))
        assert ensure_automation(client) == first
    client.create_automation(automation())  # as two calls at once would
    kept = ensure_automation(client)
    assert [found.id for found in client.read_automations_by_name(NAME)] == [kept]
    client.delete_automation(kept)


def test_actions_that_somebody_added_stay_and_what_was_switched_off_stays_off(client: SyncPrefectClient) -> None:
    id = ensure_automation(client)
    theirs = automation(500).model_copy(update={"actions": [*automation().actions, DoNothing()], "enabled": False})
    client.update_automation(id, theirs)
    assert ensure_automation(client) == id
    (found,) = client.read_automations_by_name(NAME)
    assert [action.type for action in found.actions] == ["change-flow-run-state", "do-nothing"]
    assert found.trigger.within.total_seconds() == 90
    assert not found.enabled
    client.delete_automation(id)


def test_a_run_that_stays_pending_becomes_crashed_and_one_that_begins_does_not(client: SyncPrefectClient) -> None:
    @flow(name="etl-train")
    def night() -> None:
        pass

    ensure_automation(client, pending_s=10)
    stuck, begun = (client.create_flow_run(night, state=Scheduled()) for _ in range(2))
    for run in (stuck, begun):
        client.set_flow_run_state(run.id, Pending())
    client.set_flow_run_state(begun.id, Running())
    until(lambda: client.read_flow_run(stuck.id).state_name == "Crashed")
    assert "Pending for 10 s" in str(client.read_flow_run(stuck.id).state)
    assert client.read_flow_run(begun.id).state_name == "Running"
    for made in (NAME, NAME_PENDING):
        (one,) = client.read_automations_by_name(made)
        client.delete_automation(one.id)


ZOMBIE = """
import threading
from prefect import flow
from prefect.runtime import flow_run
@flow(name="etl-train")
def zombie():
    print(flow_run.id, flush=True)
    threading.Event().wait()
zombie()
"""


@pytest.mark.nightly
@pytest.mark.fault
def test_a_run_that_was_killed_becomes_crashed(server: str, client: SyncPrefectClient) -> None:
    ensure_automation(client, silent_s=35)  # a heartbeat comes every 30 s
    process = subprocess.Popen(
        [sys.executable, "-c", ZOMBIE],
        env={**os.environ, "PREFECT_API_URL": server, **HEARTBEATS},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()

    def heard() -> bool:
        answer = client.request(
            "POST", "/events/filter", json={"filter": {"event": {"prefix": ["prefect.flow-run.he"]}}}
        )
        return any(run_id in event["resource"]["prefect.resource.id"] for event in answer.json()["events"])

    until(heard)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert client.read_flow_run(UUID(run_id)).state_name == "Running"
    until(lambda: client.read_flow_run(UUID(run_id)).state_name == "Crashed")
    assert "No heartbeat" in str(client.read_flow_run(UUID(run_id)).state)
