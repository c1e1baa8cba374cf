"""The deployments of prefect.yaml: what runs, when, with which form; and what the nights do on which clocks change."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest
import yaml
from prefect.client.schemas.schedules import CronSchedule as ClientCron
from prefect.flows import load_flow_from_entrypoint
from prefect.server.schemas.schedules import CronSchedule
from prefect.utilities.callables import parameter_schema

from flows.run.environment import REQUESTS
from flows.servers.heartbeat import FLOWS, HEARTBEATS
from tasks.core.sections import PROJECT

DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
IDS = [deployment["entrypoint"].partition(":")[2] for deployment in DEPLOYMENTS]
BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=IDS)
def test_a_deployment_names_a_flow_that_can_be_loaded_a_schedule_that_is_valid_and_one_run_at_a_time(
    deployment: dict[str, Any],
) -> None:
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    assert flow.name in FLOWS
    assert deployment["description"]
    (schedule,) = deployment["schedules"]
    assert schedule["active"] == (flow.name != "score")  # nobody has said yet what to score
    assert ClientCron(cron=schedule["cron"], timezone=schedule["timezone"]).timezone
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    assert deployment["work_pool"]["job_variables"]["env"] == {**HEARTBEATS, **REQUESTS}
    flow.validate_parameters(deployment["parameters"])


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=IDS)
def test_the_form_describes_every_parameter(deployment: dict[str, Any]) -> None:
    schema = parameter_schema(load_flow_from_entrypoint(deployment["entrypoint"]).fn)
    assert schema.properties
    for name, about in schema.properties.items():
        assert len(about.get("description", "")) > 10, name
        assert {"type", "anyOf", "$ref", "allOf"} & set(about), name


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=IDS)
def test_the_cases_that_are_measured_exist(deployment: dict[str, Any]) -> None:
    from benchmarks.harness import known_cases

    parameters = deployment["parameters"]
    assert set(parameters.get("cases", ())) <= set(known_cases())
    assert set(parameters.get("sizes", ())) <= set(parameters.get("cases", ()))


def runs(cron: str, timezone: str, day: str) -> list[str]:
    """When the schedule starts runs between noon before the night to `day` and noon after it, in local time."""
    noon = datetime.fromisoformat(day).replace(hour=12, tzinfo=ZoneInfo(timezone))
    dates = CronSchedule(cron=cron, timezone=timezone).get_dates(100, noon - timedelta(days=1), noon)
    return [f"{date.astimezone(noon.tzinfo):%m-%d %H:%M}" for date in asyncio.run(dates)]


def runs_as_asked_for(cron: str, timezone: str, day: str) -> list[str]:
    """As `runs`, as the server's scheduler asks: the next two from now on, all night long."""
    noon = datetime.fromisoformat(day).replace(hour=12, tzinfo=ZoneInfo(timezone))
    found = set()
    for hour in range(24):
        now = noon.astimezone(UTC) - timedelta(hours=24 - hour)
        found |= {
            date.astimezone(UTC) for date in asyncio.run(CronSchedule(cron=cron, timezone=timezone).get_dates(2, now))
        }
    return [f"{date.astimezone(noon.tzinfo):%m-%d %H:%M}" for date in sorted(found) if date < noon]


CHANGES = [(BERLIN, "2026-03-29"), (BERLIN, "2026-10-25"), (NEW_YORK, "2026-03-08"), (NEW_YORK, "2026-11-01")]


@pytest.mark.parametrize("when", [runs, runs_as_asked_for])
@pytest.mark.parametrize(("timezone", "day"), CHANGES)
def test_a_night_on_which_clocks_change_has_one_run_even_where_its_hour_is_not_there_or_there_twice(
    when: Any, timezone: str, day: str
) -> None:
    (run,) = when("30 2 * * *", timezone, day)
    # Where 02:30 is skipped, Prefect starts the run an hour early.
    assert run == f"{datetime.fromisoformat(day):%m-%d} {'02:30' if '-1' in day else '01:30'}"


@pytest.mark.parametrize("when", [runs, runs_as_asked_for])
@pytest.mark.parametrize(("timezone", "day"), CHANGES)
def test_the_default_hour_is_itself_on_these_nights(when: Any, timezone: str, day: str) -> None:
    assert when(DEPLOYMENTS[0]["schedules"][0]["cron"], timezone, day) == [f"{day[5:]} 04:30"]


@pytest.mark.nightly
def test_no_clock_of_the_world_skips_or_repeats_the_default_hour() -> None:
    """Of the time zones as they are known today, for years to come."""
    minute, hour, *_ = DEPLOYMENTS[0]["schedules"][0]["cron"].split()
    wrong = []
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        for year in (2026, 2027):
            for offset in range(366):
                local = datetime(year, 1, 1, int(hour), int(minute)) + timedelta(days=offset)
                first, second = (local.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
                if first != second:  # so says Python of a time that is there twice, or not at all
                    wrong.append(f"{name} {local}")
    assert wrong == []
