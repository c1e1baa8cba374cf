"""Tonight's numbers beside those of past nights: which nights count, and what is said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.run import history as subject
from flows.run.history import History
from flows.run.record import RunRecord, StageRow, read_record
from tasks.core.errors import SettingsError, ValidationFailed
from tasks.settings import Settings, load_settings

ROWS = [20_010, 19_950, 20_100, 20_020, 19_900, 20_080, 20_000]  # of seven nights
TONIGHT = RunRecord(run_id="20260409", started="2026-04-09T04:30:00+00:00", dataset="amazon-us", target="rating")


def numbers(rows: float, **more: float) -> dict[str, float]:
    return {"rows": rows, "share of nulls of text": 0.01, "mean of rating": 4.2, "mean of votes": 3.0, **more}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(overrides=[f"storage.root={tmp_path}"])


class Nights:
    """Records of past nights in a storage root, as runs write them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder = settings.storage.path / "runs"
        self.folder.mkdir()
        self.count = 0

    def add(self, rows: float, *, day: int | None = None, digest: str = "", **about: Any) -> None:
        self.count += 1
        validation = {"numbers": numbers(rows), "settings": self.under()}
        row = StageRow("clean", digest=digest or f"d{self.count}", validation=validation)
        started = f"2026-04-{day or self.count:02d}T04:30:00+00:00"
        record = replace(TONIGHT, run_id=f"r{self.count:03d}", started=started, stages=[row], **about)
        (self.folder / f"{record.run_id}.json").write_text(json.dumps(record.to_json()))

    def under(self) -> str:
        done = History(self.settings.validation.history).compared("clean", self.settings.clean, {})
        return str(done["settings"])

    def told(self, tonight: Mapping[str, float], *more: str, digest: str = "new") -> list[dict[str, str]]:
        given = load_settings(overrides=[f"storage.root={self.settings.storage.root}", *more])
        history = History.of(given, TONIGHT)
        done = history.compared("clean", given.clean, {"numbers": tonight, "warnings": []}, digest)
        return list(done["warnings"])


@pytest.fixture
def nights(settings: Settings) -> Nights:
    return Nights(settings)


def test_a_number_outside_is_told_with_its_value_and_the_limits(nights: Nights) -> None:
    for rows in ROWS:
        nights.add(rows)
    assert nights.told(numbers(20_050)) == []
    tonight = {**numbers(9_000), "share of nulls of text": 0.3, "mean of rating": 3.1}
    by_name = {warned["expectation"]: warned for warned in nights.told(tonight)}
    assert list(by_name) == ["rows", "share of nulls of text", "mean of rating"]
    assert by_name["rows"]["value"] == "9,000"
    assert by_name["rows"]["limit"].endswith(" by 7 nights")
    assert by_name["share of nulls of text"]["value"] == "30.00%"
    assert by_name["share of nulls of text"]["limit"] == "0.00% to 3.00%, by 7 nights"
    assert by_name["mean of rating"]["limit"] == "4.116 to 4.284, by 7 nights"


def test_nothing_is_said_before_enough_nights(nights: Nights) -> None:
    for rows in ROWS[1:]:
        nights.add(rows)
    assert nights.told(numbers(1)) == []
    assert len(nights.told(numbers(1), "validation.history.warm_up=6")) == 1


def test_runs_that_made_the_same_snapshot_are_one_night_whatever_their_days(nights: Nights) -> None:
    for rows in ROWS[1:]:
        nights.add(rows)
    for day in (8, 8, 9, 10):
        nights.add(20_000, day=day, digest="same")
    assert nights.told(numbers(1))[0]["limit"].endswith(" by 7 nights")
    nights.add(20_000, day=11, digest="tonight")  # what tonight's snapshot said before is no past of it
    assert nights.told(numbers(1), digest="tonight")[0]["limit"].endswith(" by 7 nights")
    assert nights.told(numbers(1))[0]["limit"].endswith(" by 8 nights")


def test_a_monthly_delivery_that_is_read_every_night_does_not_narrow_the_limits(nights: Nights) -> None:
    for month, rows in enumerate(ROWS[:2]):
        for night in range(14):
            nights.add(rows, day=1 + 14 * month + night, digest=f"month {month}")
    assert nights.told(numbers(15_000)) == []  # two deliveries are too few to say anything
    for rows in [18_000, 21_500, 20_000, 23_000, 17_500]:
        nights.add(rows, day=29)
    assert nights.told(numbers(24_000)) == []
    assert [warned["expectation"] for warned in nights.told(numbers(90_000))] == ["rows"]


def test_only_the_last_nights_count(nights: Nights) -> None:
    for rows in [1] * 10 + ROWS:
        nights.add(rows)
    assert [warned["expectation"] for warned in nights.told(numbers(1), "validation.history.nights=7")] == ["rows"]


def test_no_more_records_are_read_than_the_nights_that_count(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    for night in range(40):
        nights.add(20_000 + night, day=1 + night % 28)
    read: list[Path] = []

    def reading(path: Path) -> RunRecord:
        read.append(path)
        return read_record(path)

    monkeypatch.setattr(subject, "read_record", reading)
    assert nights.told(numbers(20_020)) == []
    assert [path.stem for path in read] == [f"r{night:03d}" for night in range(40, 25, -1)]  # 14, and one more
    read.clear()
    assert nights.told(numbers(1), "clean.drop_duplicates=false") == []
    assert len(read) == 40  # new settings: all are searched


@pytest.mark.parametrize("about", [{"dataset": "my-books"}, {"target": "positive"}, {"started_before": True}])
def test_other_data_another_target_and_nights_before_since_do_not_count(nights: Nights, about: dict[str, Any]) -> None:
    before = about.pop("started_before", False)
    for rows in ROWS:
        nights.add(rows, **about)
    assert nights.told(numbers(1), *(["validation.history.since=2026-04-02"] if before else [])) == []


def test_other_settings_of_the_stage_do_not_count(nights: Nights) -> None:
    for rows in ROWS:
        nights.add(rows)
    assert nights.told(numbers(1), "clean.drop_duplicates=false") == []


def test_records_that_are_not_whole_or_older_are_passed_over(nights: Nights) -> None:
    for rows in ROWS:
        nights.add(rows)
    (nights.folder / "r900.json").write_text("{")
    (nights.folder / "r901.json").write_text(json.dumps({"run_id": "r901", "stages": [{"stage": "clean"}]}))
    assert [warned["expectation"] for warned in nights.told(numbers(1))] == ["rows"]


def test_columns_and_stages_to_watch_can_be_chosen(nights: Nights) -> None:
    for rows in ROWS:
        nights.add(rows)
    odd = {"rows": 1.0, "share of nulls of text": 0.9, "mean of rating": 1.0, "mean of votes": 99.0}
    told = nights.told(odd, "validation.history.columns=[rating]")
    assert [warned["expectation"] for warned in told] == ["rows", "mean of rating"]
    assert nights.told(odd, "validation.history.stages=[ingest]") == []
    assert nights.told(odd, "validation.history.severity=null") == []
    with pytest.raises(SettingsError, match="no stage 'claen'"):
        nights.told(odd, "validation.history.stages=[claen]")
    with pytest.raises(SettingsError, match="warm_up must not be more than nights"):
        nights.told(odd, "validation.history.nights=5")


def test_it_can_fail_the_stage_and_says_how_to_go_on(nights: Nights) -> None:
    for rows in ROWS:
        nights.add(rows)
    with pytest.raises(ValidationFailed) as failed:
        nights.told(numbers(1), "validation.history.severity=fail")
    assert "rows: 1; limit: " in str(failed.value)
    assert "validation.history.since" in str(failed.value)
