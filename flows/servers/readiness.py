"""Find out, at a deadline, whether a run of the nightly deployment is done; if none is, what there is instead.

Asks Prefect's server over HTTP, without Prefect's client: `raymill up` does not import Prefect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flows.run.notify import record_of
from flows.run.retraining import never_ran
from flows.servers.prefect_http import ask
from tasks.core.deadline import Deadline
from tasks.settings import Settings

FLOW, DEPLOYMENT = "etl-train", "default"
LOOKED_AT = 50  # the latest runs
EARLIER = timedelta(hours=1)  # the run of a night on which clocks skip the scheduled hour


@dataclass(frozen=True)
class Readiness:
    """Whether a run has completed in time, from which start on runs count, and what there is otherwise, in words.

    `run`: the run that this is about, as Prefect's API describes it; `stage`: at which it is or failed.
    """

    done: datetime | None
    since: datetime
    what: str = ""
    state: str = "missing"
    stage: str | None = None
    run: Mapping[str, Any] | None = None


def look(api: str, authorization: str, settings: Settings, deadline: Deadline, due: datetime) -> Readiness:
    """Look for a completed run that was to start at the schedule's last time before `due`, a deadline, or later; or for
    one that was at work by then, for which the scheduled one was cancelled: the deployment allows one at a time.

    Without a schedule, runs from the deadline before on count. Raises TransientError if Prefect's server is away.
    """
    deployment = ask(api, authorization, f"deployments/name/{FLOW}/{DEPLOYMENT}")
    times = [] if deployment.get("paused") else last_times(deployment.get("schedules") or [], due)
    since = max(times).since if times else deadline.before(due - timedelta(minutes=1))
    query = {
        "flow_runs": {
            "deployment_id": {"any_": [deployment["id"]]},
            "expected_start_time": {"before_": datetime.now(UTC).isoformat()},
        },
        "sort": "EXPECTED_START_TIME_DESC",
        "limit": LOOKED_AT,
    }
    runs = ask(api, authorization, "flow_runs/filter", query)
    return judged(runs, since, deadline, settings, scheduled=max(times).at if times else None)


@dataclass(frozen=True, order=True)
class LastTime:
    """When a schedule was last due, and from which start on runs are its own: an hour earlier where clocks changed."""

    at: datetime
    since: datetime


def last_times(schedules: Sequence[Mapping[str, Any]], due: datetime) -> list[LastTime]:
    """Return the last time of each active cron schedule before `due`, in UTC; other schedules are passed over."""
    from zoneinfo import ZoneInfo

    from cronsim import CronSim, CronSimError

    found = []
    for one in schedules:
        schedule = one.get("schedule") or {}
        if one.get("active") and schedule.get("cron"):
            try:
                local = due.astimezone(ZoneInfo(schedule.get("timezone") or "UTC"))
                last = next(CronSim(schedule["cron"], local, reverse=True))
            except (CronSimError, StopIteration, KeyError, ValueError):
                continue
            at = last.astimezone(UTC)
            found.append(LastTime(at, at - EARLIER if _clocks_change(last) else at))
    return found


def _clocks_change(local: datetime) -> bool:
    """Whether clocks change on this day of its zone."""
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    return midnight.utcoffset() != (midnight + timedelta(days=1)).utcoffset()


def judged(
    runs: Sequence[Mapping[str, Any]],
    since: datetime,
    deadline: Deadline,
    settings: Settings,
    *,
    scheduled: datetime | None,
) -> Readiness:
    """Judge by the deployment's latest runs: Prefect's descriptions of them, the latest first.

    since: from which expected start on runs count. scheduled: when the last one was due; None without a schedule.
    """
    lately = [run for run in runs if (_moment(run["expected_start_time"]) or since) >= since]
    lately = [*(run for run in runs if run not in lately and _stands_for(run, lately)), *lately]
    done = [at for run in lately if run["state_type"] == "COMPLETED" and (at := _moment(run.get("end_time")))]
    if done:
        return Readiness(min(done), since)
    at_work = [run for state in ("RUNNING", "PENDING") for run in runs if run["state_type"] == state]
    for run in (*at_work, *lately):
        return _described(run, since, deadline, settings)
    what = f"there is no run, due at {deadline.clock(scheduled)}" if scheduled else "no run, and no schedule is active"
    return Readiness(None, since, what)


def _stands_for(run: Mapping[str, Any], lately: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a run was at work when one of the others was to start, which was cancelled before it began."""
    began, ended = _moment(run.get("start_time")), _moment(run.get("end_time"))
    due = [_moment(other["expected_start_time"]) for other in lately if never_ran(other)]
    return any(at and began and ended and began <= at <= ended for at in due)


def _described(run: Mapping[str, Any], since: datetime, deadline: Deadline, settings: Settings) -> Readiness:
    record = record_of(settings, str(run["id"]))
    kind, name = run["state_type"], str(run.get("state_name") or run["state_type"])
    expected, began, ended = (_moment(run.get(k)) for k in ("expected_start_time", "start_time", "end_time"))
    stage: str | None = ", ".join(record.at_work) or None
    if kind == "RUNNING":
        what = f"running{f' at {stage}' if stage else ''}{_since(began, deadline)}"
    elif kind == "PENDING":
        what = f"pending: a worker has taken it, and it has not begun{_since(expected, deadline)}"
    elif kind == "SCHEDULED":
        what = f"{name.lower()}: due at {deadline.clock(expected or since)}, and no worker has taken it"
    else:
        stage = record.failed["stage"] if record.failed else stage
        at = f" at {deadline.clock(ended)}" if ended else ""
        what = f"{name.lower()}{f' in {stage}' if stage else ''}{at}"
        if record.failed:
            what += f": {record.failed['error'].splitlines()[0]}"
    return Readiness(None, since, what, name.lower(), stage, run)


def _since(moment: datetime | None, deadline: Deadline) -> str:
    return f" since {deadline.clock(moment)}" if moment else ""


def _moment(text: Any) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
