"""A deadline of each day, in its own time zone, also on the days on which clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tasks.core.deadline import Deadline
from tasks.core.errors import SettingsError
from tasks.settings import load_settings


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_the_latest_deadline_is_that_of_the_local_day_or_the_day_before() -> None:
    deadline = Deadline.parse("07:00 Europe/Berlin")
    assert str(deadline) == "07:00 Europe/Berlin"
    assert deadline.before(utc("2026-01-15T06:00")) == utc("2026-01-15T06:00")
    assert deadline.before(utc("2026-01-15T05:59")) == utc("2026-01-14T06:00")
    assert deadline.before(utc("2026-07-15T05:00")) == utc("2026-07-15T05:00")
    assert deadline.clock(utc("2026-07-15T05:10")) == "07:10"
    assert Deadline.parse("7:00 Asia/Tokyo").before(utc("2026-01-15T00:00")) == utc("2026-01-14T22:00")


@pytest.mark.parametrize("at", ["07:00", "02:30", "03:00", "00:00"])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Etc/UTC"])
def test_each_day_of_a_year_has_the_deadline_once(at: str, zone: str) -> None:
    deadline = Deadline.parse(f"{at} {zone}")
    first = utc("2026-01-02T12:00")
    seen = {deadline.before(first + timedelta(minutes=15 * n)) for n in range(4 * 24 * 365)}
    assert len(seen) in (365, 366)  # the quarter hours of a year touch one day more where the zone is ahead
    assert {at.astimezone(deadline.zone).date() for at in seen} == {
        min(seen).astimezone(deadline.zone).date() + timedelta(days=n) for n in range(len(seen))
    }


def test_the_hours_at_which_clocks_change() -> None:
    skipped, twice = Deadline.parse("02:30 Europe/Berlin"), Deadline.parse("02:30 Europe/Berlin")
    assert skipped.before(utc("2026-03-29T12:00")) == utc("2026-03-29T01:30")  # 03:30 on the new clock
    assert twice.before(utc("2026-10-25T12:00")) == utc("2026-10-25T00:30")  # the first one


@pytest.mark.parametrize("wrong", ["07:00", "25:00 Europe/Berlin", "07:00 Europe/Atlantis", "07:00 ../etc", "soon"])
def test_what_is_no_deadline_is_a_settings_error(wrong: str) -> None:
    with pytest.raises(SettingsError, match=r"notify\.ready_by: .*07:00 Europe/Berlin"):
        load_settings(overrides=[f"notify.ready_by={wrong!r}"])
    assert load_settings(overrides=["notify.ready_by=7:05 Etc/UTC"]).notify.ready_by == "07:05 Etc/UTC"
