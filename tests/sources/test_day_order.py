"""Day and month in two orders: each file is judged by its own days above 12, and no date is misread in silence."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import InputError
from tasks.sources.day_order import CONTESTED, swapped
from tests.support.accounts import read_all
from tests.support.inspected_files import as_csv, proposed, words

DAYS = [dt.date(2018, 1, 1) + dt.timedelta(days=n) for n in range(0, 300, 5)]
HEAD = ["user", "item", "stars", "date", "text"]
MONTH_FIRST, DAY_FIRST = "%m/%d/%Y", "%d/%m/%Y"


def texts(fmt: str, days: list[dt.date], n: int = 0) -> str:
    rows = [[f"u{n}{i}", "i", i % 5 + 1, f"{day:{fmt}}", words(i)] for i, day in enumerate(days)]
    return as_csv([HEAD, *rows])


def profile(path: Path, *formats: str) -> str:
    quoted = ", ".join(f'"{f}"' for f in formats)
    columns = "{user_id: user, item_id: item, rating: stars, timestamp: date, text: text}"
    path.write_text(f"description: made up\ncolumns: {columns}\ntimestamp: {{formats: [{quoted}]}}\n")
    return str(path)


def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def days_of(path: Path, dataset: str) -> list[dt.date]:
    return [row["timestamp"].date() for row in read_all(path, dataset).kept]


@pytest.mark.parametrize("clock", ["", " %H:%M"])
def test_files_in_two_orders_are_read_each_in_its_own(tmp_path: Path, clock: str) -> None:
    folder = raw(tmp_path)
    (folder / "uk.csv").write_text(texts(DAY_FIRST + clock, DAYS, 1))
    (folder / "us.csv.gz").write_bytes(gzip.compress(texts(MONTH_FIRST + clock, DAYS, 2).encode()))
    found = proposed(folder)
    assert "both orders occur" in (found.yaml or "")
    assert found.chosen is not None
    assert found.chosen.rejected_share == 0
    (tmp_path / "mine.yaml").write_text(found.yaml or "")
    assert days_of(folder, str(tmp_path / "mine.yaml")) == DAYS * 2


def test_the_other_order_beyond_the_sample_is_proposed_too(tmp_path: Path) -> None:
    folder = raw(tmp_path)
    (folder / "a.csv").write_text(texts(MONTH_FIRST, DAYS * 350, 1))
    (folder / "b.csv").write_text(texts(DAY_FIRST, DAYS, 2))
    found = proposed(folder)
    assert "both orders occur" in (found.yaml or "")
    assert found.chosen is not None
    assert found.chosen.quarantined == []


def test_a_file_in_the_other_order_than_the_profiles_is_quarantined_with_the_fix(tmp_path: Path) -> None:
    folder = raw(tmp_path)
    (folder / "uk.csv").write_text(texts(DAY_FIRST, DAYS))
    mine = profile(tmp_path / "mine.yaml", MONTH_FIRST)
    with pytest.raises(InputError, match=r"(?s)dates such as 16/01/2018 fit %d/%m/%Y.*add %d/%m/%Y"):
        read_all(folder, mine)
    (folder / "us.csv").write_text(texts(MONTH_FIRST, DAYS))
    found = read_all(folder, mine)
    assert [row["timestamp"].date() for row in found.kept] == DAYS
    assert list(found.damage) == ["uk.csv"]


def test_a_file_that_does_not_tell_loses_only_what_could_be_misread(tmp_path: Path) -> None:
    folder = raw(tmp_path)
    (folder / "a.csv").write_text(texts(DAY_FIRST, [dt.date(2018, 3, 4), dt.date(2018, 5, 5)]))
    found = read_all(folder, profile(tmp_path / "mine.yaml", MONTH_FIRST, DAY_FIRST))
    assert found.reasons == [(0, CONTESTED)]
    assert [row["timestamp"].date() for row in found.kept] == [dt.date(2018, 5, 5)]


def test_a_file_with_both_orders_in_it_keeps_the_dates_that_fit_one_alone(tmp_path: Path) -> None:
    folder = raw(tmp_path)
    (folder / "a.csv").write_text(texts(DAY_FIRST, DAYS) + texts(MONTH_FIRST, DAYS).partition("\n")[2])
    found = read_all(folder, profile(tmp_path / "mine.yaml", MONTH_FIRST, DAY_FIRST))
    assert {reason for _, reason in found.reasons} == {CONTESTED}
    assert {row["timestamp"].date() for row in found.kept} == {d for d in DAYS if d.day > 12 or d.day == d.month}


def test_one_date_in_the_other_order_among_many_is_dirt_and_rejected(tmp_path: Path) -> None:
    folder = raw(tmp_path)
    (folder / "a.csv").write_text(texts(DAY_FIRST, DAYS * 9) + "u,i,5,01/31/2018,odd\n")
    found = read_all(folder, profile(tmp_path / "mine.yaml", MONTH_FIRST, DAY_FIRST))
    assert found.reasons == [(len(DAYS) * 9, "timestamp not understood")]
    assert [row["timestamp"].date() for row in found.kept] == DAYS * 9


def test_texts_in_parquet_are_judged_and_typed_dates_are_left_alone(tmp_path: Path) -> None:
    folder = raw(tmp_path)
    rows = {"user": ["u"] * len(DAYS), "item": ["i"] * len(DAYS), "stars": [5] * len(DAYS), "text": ["t"] * len(DAYS)}
    pq.write_table(pa.table({**rows, "date": [f"{d:{DAY_FIRST}}" for d in DAYS]}), folder / "a.parquet")
    pq.write_table(pa.table({**rows, "date": DAYS}), folder / "b.parquet")
    assert days_of(folder, profile(tmp_path / "mine.yaml", MONTH_FIRST, DAY_FIRST)) == DAYS * 2


@pytest.mark.parametrize("slash", ["/", "\\/"])
def test_json_is_judged_too_with_slashes_as_php_escapes_them(tmp_path: Path, slash: str) -> None:
    folder = raw(tmp_path)
    rows = [
        {"user": "u", "item": "i", "stars": 5, "text": words(i), "date": f"{d:{DAY_FIRST}}"} for i, d in enumerate(DAYS)
    ]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows).replace("/", slash))
    assert days_of(folder, profile(tmp_path / "mine.yaml", MONTH_FIRST, DAY_FIRST)) == DAYS


@pytest.mark.parametrize(
    ("fmt", "other"),
    [(MONTH_FIRST, DAY_FIRST), ("%d-%m-%y", "%m-%d-%y"), ("%m %d, %Y", "%d %m, %Y"), ("%Y-%m-%d", None), ("%s", None)],
)
def test_the_other_order_of_a_format(fmt: str, other: str | None) -> None:
    assert swapped(fmt) == other
