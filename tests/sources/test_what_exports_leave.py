"""Traces that spreadsheets, scrapers, servers and joined files leave in review files, after public bug reports."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest

from tasks.core.errors import InputError
from tasks.sources.inspection import inspect
from tests.support.accounts import read_all
from tests.support.inspected_files import as_csv, proposed, use, words
from tests.support.raw_files import HEADER, delimited, review

DAYS = [dt.datetime(2018, 1, 5, 10, tzinfo=dt.UTC) + dt.timedelta(days=9 * i) for i in range(40)]
NAMES = ["reviewer", "product", "stars", "review", "date"]


def table(**columns: list[object]) -> list[list[object]]:
    """Rows of 40 reviews under their names; the given columns replace the usual ones or come after them."""
    usual: dict[str, list[object]] = {
        "reviewer": [f"user{i}x" for i in range(40)],
        "product": [f"P{i % 7:03}" for i in range(40)],
        "stars": [i % 5 + 1 for i in range(40)],
        "review": [words(i) for i in range(40)],
        "date": [day.strftime("%Y-%m-%d") for day in DAYS],
    }
    chosen = usual | columns
    return [[*chosen], *(list(row) for row in zip(*chosen.values(), strict=True))]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132735\n", "a Git LFS pointer"),
        ("<!DOCTYPE html>\n<html><title>404</title>\nx, y\n</html>\n", "an HTML page"),
        ("\n<HTML><body>Moved</body></HTML>", "an HTML page"),
        ("<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML document"),
        ("product/productId: B1\nreview/userId: A1\nreview/score: 5.0\n", "one `name: value` a line"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.parquet", "a.csv.gz"])
def test_what_stands_in_the_place_of_a_file_is_named(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    for look in (lambda: inspect([str(tmp_path)]), lambda: read_all(tmp_path)):
        with pytest.raises(InputError, match=f"this is .*{said}"):
            look()


@pytest.mark.parametrize("preface", ["sep=;\r\n", '\ufeff"sep=;"\n', "\ufeff\ufeff", "\ufeff\ufeffsep=;\n"])
def test_marks_and_the_delimiter_line_of_excel_are_no_data(tmp_path: Path, preface: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes((preface + as_csv(table(), ";")).encode())
    kept, rejected = use(proposed(path), path, tmp_path)
    assert (len(kept), rejected, kept[0]["user_id"]) == (40, [], "user0x")


@pytest.mark.parametrize("delimiter", ["\x01", "^", "~"])
def test_rare_delimiters_are_found(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(as_csv(table(), delimiter))
    kept, rejected = use(proposed(path), path, tmp_path)
    assert (len(kept), rejected) == (40, [])


def test_a_second_column_of_one_name_gets_a_number_and_the_header_is_no_data(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = table(note=[f"n{i}" for i in range(40)], more=["x"] * 40)
    rows[0][-1] = "note"
    path.write_text(as_csv(rows))
    found = proposed(path)
    assert [column.name for column in found.layouts[0].columns] == [*NAMES, "note", "note_2"]
    kept, rejected = use(found, path, tmp_path)
    assert (len(kept), rejected, kept[0]["user_id"]) == (40, [], "user0x")


def test_a_first_row_of_data_with_a_value_twice_is_no_header(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(as_csv(table(same=[5] * 40, again=[5] * 40)[1:]))
    assert inspect([str(path)]).layouts[0].rows == 40


def test_of_two_columns_with_the_name_of_a_shipped_profile_the_first_is_read(tmp_path: Path) -> None:
    rows = [review(review_id=f"R{i}") for i in range(3)]
    header, *lines = delimited(rows).splitlines()
    text = "\n".join([f"{header},star_rating", *(f"{line},1" for line in lines)])
    (tmp_path / "a.csv").write_text(text + "\n")
    found = read_all(tmp_path)
    assert len(HEADER) == header.count(",") + 1
    assert ([row["rating"] for row in found.kept], found.rejected) == ([5, 5, 5], [])


def test_reviews_printed_by_a_scraper_have_their_times(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    naive = [day.replace(tzinfo=None, second=i % 3, microsecond=i % 2 * 250_000) for i, day in enumerate(DAYS)]
    records = [dict(zip(NAMES, row, strict=True)) for row in table(date=list(naive))[1:]]
    records[0]["review"] = 'I wrote datetime.datetime(2020, 1, 1, 0, 0) here, and "it\'s" kept'
    path.write_text("".join(f"{record!r}\n" for record in records))
    kept, rejected = use(proposed(path), path, tmp_path)
    assert rejected == []
    assert [row["timestamp"] for row in kept] == [time.replace(tzinfo=dt.UTC) for time in naive]
    assert kept[0]["text"] == records[0]["review"]


@pytest.mark.parametrize("write", [json.dumps, repr])
def test_a_comma_after_each_line_is_dropped(tmp_path: Path, write: object) -> None:
    assert callable(write)
    path = tmp_path / "a.jsonl"
    records = [dict(zip(NAMES, row, strict=True)) | {"real": True, "none": None} for row in table()[1:]]
    path.write_text("".join(f"{write(record)},\n" for record in records))
    kept, rejected = use(proposed(path), path, tmp_path)
    assert (len(kept), rejected) == (40, [])


def test_where_no_row_can_be_read_inspect_says_why(tmp_path: Path) -> None:
    lines = ["\r".join(["a,b,1,broken", "text,2018-01-05"]) for _ in range(20)]
    (tmp_path / "a.csv").write_bytes("\n".join([",".join(NAMES), *lines, ""]).encode())
    assert inspect([str(tmp_path)]).why_none == "no row of a.csv can be read: 4 fields in the line"
