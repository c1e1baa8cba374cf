"""The deadline of a night: what is told when its run is not ready, once, and that it is ready, late."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from flows.run import notify
from flows.servers import readiness
from flows.servers.deadline_watch import NOT_READY, READY_LATE, Watch
from flows.servers.readiness import Readiness, judged, last_times
from tasks.core.deadline import Deadline
from tasks.core.errors import TransientError
from tasks.settings import Settings, load_settings

BERLIN = Deadline.parse("07:00 Europe/Berlin")
DUE = datetime(2026, 4, 9, 5, tzinfo=UTC)  # 07:00 in summer
SCHEDULED = datetime(2026, 4, 9, 2, 30, tzinfo=UTC)  # 04:30
NIGHT = [{"active": True, "schedule": {"cron": "30 4 * * *", "timezone": "Europe/Berlin"}}]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(overrides=[f"storage.root={tmp_path}"])


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Answers of Prefect's server, by path; what it was asked is under "asked"."""
    deployment = {"id": "d1", "schedules": NIGHT, "paused": False}
    answers: dict[str, Any] = {"asked": [], "deployments/name/etl-train/default": deployment}

    def ask(_api: str, _authorization: str, path: str, body: Any = None) -> Any:
        answers["asked"].append((path, body))
        return answers[path]

    monkeypatch.setattr(readiness, "ask", ask)
    return answers


def flow_run(state: str, expected: datetime, *, name: str = "", ended: datetime | None = None) -> dict[str, Any]:
    began = None if state in ("SCHEDULED", "PENDING") else expected
    moments = {"expected_start_time": expected, "start_time": began, "end_time": ended}
    texts = {key: at and at.isoformat().replace("+00:00", "Z") for key, at in moments.items()}
    return {
        "id": str(uuid4()),
        "name": "etl-train x",
        "state_type": state,
        "state_name": name or state.title(),
        **texts,
    }


def look(settings: Settings, *runs: dict[str, Any], scheduled: datetime | None = SCHEDULED) -> Readiness:
    since = scheduled or BERLIN.before(DUE - timedelta(minutes=1))
    return judged(list(runs), since, BERLIN, settings, scheduled=scheduled)


def keep_record(settings: Settings, run: dict[str, Any], **about: Any) -> None:
    folder = settings.storage.path / "runs"
    folder.mkdir(exist_ok=True)
    (folder / "1.json").write_text(json.dumps({"flow_run_id": run["id"], **about}))


def test_a_run_that_completed_since_the_schedules_time_is_ready(settings: Settings) -> None:
    done = flow_run("COMPLETED", SCHEDULED, ended=SCHEDULED + timedelta(hours=1))
    assert look(settings, flow_run("RUNNING", DUE), done).done == SCHEDULED + timedelta(hours=1)
    yesterday = flow_run("COMPLETED", SCHEDULED - timedelta(hours=9), ended=SCHEDULED - timedelta(hours=8))
    assert look(settings, yesterday).done is None


def test_a_run_by_hand_before_the_schedules_time_does_not_stand_for_the_night(
    settings: Settings, prefect: dict[str, Any]
) -> None:
    failed = flow_run("FAILED", SCHEDULED, ended=SCHEDULED + timedelta(minutes=20))
    for minutes in (40, 80):  # it ended before the schedule's time, or after
        began = SCHEDULED - timedelta(minutes=50)
        by_hand = flow_run("COMPLETED", began, ended=began + timedelta(minutes=minutes))
        prefect["flow_runs/filter"] = [failed, by_hand]
        found = readiness.look("http://x/api", "", settings, BERLIN, DUE)
        assert (found.done, found.what) == (None, "failed at 04:50")


def test_a_run_for_new_files_that_the_scheduled_one_gave_way_to_stands_for_the_night(settings: Settings) -> None:
    """The deployment allows one run at a time, and cancels the other."""
    gave_way = {**flow_run("CANCELLED", SCHEDULED, ended=SCHEDULED), "run_count": 0}
    early = SCHEDULED - timedelta(minutes=10)
    ended = SCHEDULED + timedelta(minutes=40)
    assert look(settings, gave_way, flow_run("COMPLETED", early, ended=ended)).done == ended
    assert look(settings, gave_way, flow_run("FAILED", early, ended=ended)).what == "failed at 05:10"
    assert look(settings, gave_way, flow_run("RUNNING", early)).what == "running since 04:20"
    before = flow_run("COMPLETED", early, ended=SCHEDULED - timedelta(minutes=1))
    assert look(settings, gave_way, before).what == "cancelled at 04:30"  # by a person
    by_a_person = {**gave_way, "run_count": 1}
    assert look(settings, by_a_person, flow_run("COMPLETED", early, ended=ended)).done is None


@pytest.mark.parametrize(
    ("day", "began", "counts"),
    [
        ("2026-03-29", "00:30", True),  # 02:30 is skipped: Prefect starts the run at 01:30
        ("2026-10-25", "00:30", True),  # 02:30 is there twice
        ("2026-10-25", "01:30", True),
        ("2026-03-30", "00:30", True),
        ("2026-03-30", "00:29", False),
    ],
)
def test_an_hour_earlier_counts_where_clocks_change(
    settings: Settings, prefect: dict[str, Any], day: str, began: str, counts: bool
) -> None:
    at_half_past_two = {"active": True, "schedule": {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}}
    prefect["deployments/name/etl-train/default"]["schedules"] = [at_half_past_two]
    started = datetime.fromisoformat(f"{day}T{began}+00:00")
    ended = started + timedelta(hours=1)
    prefect["flow_runs/filter"] = [flow_run("COMPLETED", started, ended=ended)]
    due = datetime.fromisoformat(f"{day}T07:00+02:00")
    found = readiness.look("http://x/api", "", settings, BERLIN, due)
    assert found.done == (ended if counts else None)


def test_a_running_one_is_told_with_its_stage(settings: Settings) -> None:
    running = flow_run("RUNNING", SCHEDULED)
    keep_record(settings, running, at_work=["train", "tune"])
    found = look(settings, flow_run("SCHEDULED", DUE - timedelta(minutes=5), name="Late"), running)
    assert found.what == "running at train, tune since 04:30"
    assert (found.state, found.stage) == ("running", "train, tune")


@pytest.mark.parametrize(
    ("state", "name", "said"),
    [
        ("SCHEDULED", "Late", "late: due at 04:30, and no worker has taken it"),
        ("PENDING", "", "pending: a worker has taken it, and it has not begun since 04:30"),
        ("CANCELLED", "", "cancelled at 04:50"),
    ],
)
def test_a_run_that_waits_or_was_cancelled_is_told_as_such(
    settings: Settings, state: str, name: str, said: str
) -> None:
    ended = SCHEDULED + timedelta(minutes=20) if state == "CANCELLED" else None
    assert look(settings, flow_run(state, SCHEDULED, name=name, ended=ended)).what == said


def test_a_failed_one_is_told_with_stage_and_error(settings: Settings) -> None:
    failed = flow_run("FAILED", SCHEDULED, ended=SCHEDULED + timedelta(minutes=20))
    keep_record(settings, failed, failed={"stage": "clean", "error": "part-3: not UTF-8\n  → mend it"})
    assert look(settings, failed).what == "failed in clean at 04:50: part-3: not UTF-8"


def test_without_a_run_it_is_told_when_one_was_due(settings: Settings) -> None:
    last_week = flow_run("FAILED", SCHEDULED - timedelta(days=7), ended=SCHEDULED - timedelta(days=7))
    assert look(settings, last_week).what == "there is no run, due at 04:30"
    assert look(settings, scheduled=None).what == "no run, and no schedule is active"


def last_at(schedules: list[dict[str, Any]], due: datetime) -> list[datetime]:
    return [last.at for last in last_times(schedules, due)]


def test_the_schedules_last_time_is_that_of_its_own_zone() -> None:
    assert last_at(NIGHT, DUE) == [SCHEDULED]
    winter = datetime(2026, 1, 15, 6, tzinfo=UTC)
    assert last_at(NIGHT, winter) == [datetime(2026, 1, 15, 3, 30, tzinfo=UTC)]
    others = [{**NIGHT[0], "active": False}, {"active": True, "schedule": {"interval": 3600}}]
    assert last_times(others, DUE) == []
    weekdays = [{"active": True, "schedule": {"cron": "30 4 * * 1-5", "timezone": "Etc/UTC"}}]
    sunday = datetime(2026, 4, 12, 5, tzinfo=UTC)
    assert last_at(weekdays, sunday) == [datetime(2026, 4, 10, 4, 30, tzinfo=UTC)]


class Night:
    """A watch over runs that the test makes up, and what it posted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: Readiness | Exception = Readiness(None, SCHEDULED, "running at tune since 04:30", "running", "tune")
        self.told: list[tuple[str, str]] = []
        self.said: list[str] = []
        self.problem = ""

    def find(self, due: datetime) -> Readiness:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def tell(self, event: str, message: dict[str, Any]) -> str:
        if not self.problem:
            self.told.append((event, message["text"]))
        return self.problem

    def tick(self, *minutes: float, deadline: Deadline = BERLIN) -> None:
        """Look so many minutes after the deadline, each time in a new `up`."""
        for after in minutes:
            Watch(deadline, self.folder, self.find, self.tell, self.said.append).tick(DUE + timedelta(minutes=after))


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


LATE = "etl-train is not ready by 07:00 Europe/Berlin: running at tune since 04:30"


def test_a_late_run_is_told_once_and_once_more_when_it_is_ready(night: Night) -> None:
    night.tick(-600, -1)
    assert night.told == []
    night.tick(0, 1, 40)
    assert night.told == [(NOT_READY, LATE)]
    night.found = Readiness(DUE + timedelta(minutes=41), SCHEDULED)
    night.tick(42, 43, 600)
    assert night.told[1:] == [(READY_LATE, "etl-train is ready, late: 07:41, 41 minutes after 07:00 Europe/Berlin")]


def test_a_run_in_time_is_no_news(night: Night) -> None:
    night.tick(-600)
    night.found = Readiness(DUE - timedelta(minutes=1), SCHEDULED)
    night.tick(0, 10, 24 * 60, 24 * 60 + 1)
    assert night.told == []


def test_each_day_is_looked_at_anew(night: Night) -> None:
    night.tick(-600, 0, 24 * 60 - 1, 24 * 60)
    assert [event for event, _ in night.told] == [NOT_READY, NOT_READY]


def test_a_start_after_the_deadline_makes_up_for_it_but_not_the_very_first(night: Night) -> None:
    night.tick(90)
    assert night.told == []
    night.tick(24 * 60 + 90)
    assert night.told == [(NOT_READY, LATE)]
    night.found = Readiness(DUE + timedelta(days=2, minutes=30), SCHEDULED)
    night.tick(2 * 24 * 60 + 90)  # late, and done before anybody looked
    assert [event for event, _ in night.told] == [NOT_READY, READY_LATE]


def test_another_deadline_begins_anew(night: Night) -> None:
    night.tick(-600)
    night.tick(5, deadline=Deadline.parse("07:01 Europe/Berlin"))
    assert night.told == []


def test_a_server_that_does_not_answer_is_told_after_some_minutes(night: Night) -> None:
    night.found = TransientError("Prefect's server does not answer: ConnectError")
    night.tick(-600, 0, 4)
    assert night.told == []
    night.tick(6, 7)
    assert [text.partition(": ")[2] for _, text in night.told] == ["Prefect's server does not answer: ConnectError"]


def test_a_message_that_cannot_be_posted_is_tried_again(night: Night) -> None:
    night.problem = "the webhook answers 503"
    night.tick(-600, 0, 1)
    assert night.told == []
    assert "trying again" in night.said[0]
    night.problem = ""
    night.tick(2, 3)
    assert [event for event, _ in night.told] == [NOT_READY]


def test_the_deployments_own_runs_are_asked_for(settings: Settings, prefect: dict[str, Any]) -> None:
    prefect["flow_runs/filter"] = []
    assert readiness.look("http://x/api", "", settings, BERLIN, DUE).what == "there is no run, due at 04:30"
    assert prefect["asked"][1][1]["flow_runs"]["deployment_id"] == {"any_": ["d1"]}
    prefect["deployments/name/etl-train/default"]["paused"] = True
    assert readiness.look("http://x/api", "", settings, BERLIN, DUE).what == "no run, and no schedule is active"


def test_a_server_that_is_down_is_a_transient_error(settings: Settings) -> None:
    with pytest.raises(TransientError, match="does not answer"):
        readiness.look("http://127.0.0.1:9/api", "", settings, BERLIN, DUE)


def test_an_event_that_is_not_chosen_is_not_posted(monkeypatch: pytest.MonkeyPatch) -> None:
    posted: list[Any] = []
    monkeypatch.setattr(notify, "post", lambda _url, body: posted.append(body) or "")
    chosen = load_settings(overrides=["notify.webhook=http://127.0.0.1:9/x", "notify.events=[not-ready]"])
    assert notify.send(chosen, "promoted", {"text": "a"}) == ""
    assert notify.send(chosen, NOT_READY, {"text": "b"}) == ""
    assert [(body["text"], body["event"]) for body in posted] == [("b", NOT_READY)]
