"""Dates in other languages and calendars, ids and opinions as exports write them, after public bug reports."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import ProfileError
from tasks.domain.ids import id_of
from tasks.sources import item_records, load_profile
from tasks.sources.inspection import inspect
from tasks.sources.profiles import RatingRule
from tasks.sources.ratings import rating_of
from tests.sources.test_what_exports_leave import DAYS, table
from tests.support.inspected_files import as_csv, proposed, use
from tests.support.raw_files import read

GERMAN = "Januar Februar März April Mai Juni Juli August September Oktober November Dezember".split()  # noqa: SIM905
FRENCH = "janvier février mars avril mai juin juillet août septembre octobre novembre décembre".split()  # noqa: SIM905
SPANISH = "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre".split()  # noqa: SIM905


def ordinal(n: int) -> str:
    return f"{n}{'th' if n in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


DATES = {
    "German": [f"{d.day}. {GERMAN[d.month - 1]} {d.year}" for d in DAYS],
    "German in a sentence": [f"Rezension aus Deutschland vom {d.day}. {GERMAN[d.month - 1]} {d.year}" for d in DAYS],
    "French": [f"Avis laissé en France le {d.day} {FRENCH[d.month - 1]} {d.year}" for d in DAYS],
    "Spanish": [f"Calificado en España el {d.day} de {SPANISH[d.month - 1]} de {d.year}" for d in DAYS],
    "Japanese": [f"{d.year}年{d.month}月{d.day}日に日本でレビュー済み" for d in DAYS],
    "ordinal": [f"{ordinal(d.day)} {d:%B %Y}" for d in DAYS],
    "American ordinal": [f"{d:%B} {ordinal(d.day)}, {d.year}" for d in DAYS],
    "Oracle": [f"{d:%d-%b-%y}".upper() for d in DAYS],
    "with the day of the week": [f"{d:%A, %d %B %Y}" for d in DAYS],
    "with a point": [f"{d:%b. %d, %Y}" for d in DAYS],
    "days of Excel": [str(43105 + 9 * i) for i in range(40)],
}


@pytest.mark.parametrize("way", DATES)
def test_dates_are_read_as_they_are_written_in(tmp_path: Path, way: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(as_csv(table(date=list(DATES[way]))), encoding="utf-8")
    kept, rejected = use(proposed(path), path, tmp_path)
    assert rejected == []
    assert [row["timestamp"].date() for row in kept] == [day.date() for day in DAYS]


@pytest.mark.parametrize(
    ("written", "time"),
    [("43105.5", dt.time(12)), ("43105.3333333333", dt.time(8)), ("43105.000011574", dt.time(0, 0, 1))],
)
def test_the_fraction_of_a_day_of_excel_is_the_time(tmp_path: Path, written: str, time: dt.time) -> None:
    path = tmp_path / "a.csv"
    path.write_text(as_csv(table(date=[written] * 40)))
    kept, _ = use(proposed(path), path, tmp_path)
    assert kept[0]["timestamp"].replace(microsecond=0) == dt.datetime.combine(DAYS[0].date(), time, dt.UTC)


def test_numbers_like_days_of_excel_are_no_dates_under_another_name(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = table(amount=[str(43105 + 9 * i) for i in range(40)])
    path.write_text(as_csv([row[:4] + row[5:] for row in rows]))
    assert "timestamp: amount" not in (inspect([str(path)]).yaml or "")


def test_names_of_months_are_twelve(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("description: x\ncolumns: {}\ntimestamp: {months: [Januar]}\n")
    with pytest.raises(ProfileError, match="all twelve months"):
        load_profile(str(path))


@pytest.mark.parametrize("written", ["{}.0", '="{}"', "\ufeff{}", " {} "])
def test_one_id_written_in_two_ways_is_one_id(tmp_path: Path, written: str) -> None:
    ids: list[object] = [str(1000 + i) for i in range(40)]
    (tmp_path / "a.csv").write_text(as_csv(table(reviewer=ids)), encoding="utf-8")
    (tmp_path / "b.csv").write_text(as_csv(table(reviewer=[written.format(i) for i in ids])), encoding="utf-8")
    kept, rejected = use(proposed(tmp_path), tmp_path, tmp_path)
    assert rejected == []
    assert [row["user_id"] for row in kept] == [*ids, *ids]


@pytest.mark.parametrize(
    ("value", "item"),
    [
        ("12.0", "12"),
        (12.0, "12"),
        ('="0012"', "0012"),
        ("\ufeffB1", "B1"),
        ("B1.0", "B1.0"),
        (1.5, None),
        (1e30, None),
    ],
)
def test_items_have_the_ids_that_their_reviews_have(value: object, item: str | None) -> None:
    assert item_records.id_of(value) == item
    if isinstance(value, str):
        frame = pl.DataFrame({"id": [value]})
        assert frame.select(id_of(pl.String(), pl.col("id"))).item() == item


def test_ids_in_floats_are_whole_numbers_and_texts_in_bytes_are_texts(tmp_path: Path) -> None:
    names, *rows = table()
    columns = dict(zip(map(str, names), map(list, zip(*rows, strict=True)), strict=True))
    columns["reviewer"] = [1000.0 + i for i in range(39)] + [76561197970000000.0]
    reviews = [str(text).encode() for text in columns["review"]]
    frame = pa.table(columns | {"review": pa.array([b"caf\xc3\xa9", *reviews[1:]], pa.binary())})
    pq.write_table(frame, tmp_path / "a.parquet")
    kept, rejected = use(proposed(tmp_path / "a.parquet"), tmp_path / "a.parquet", tmp_path)
    assert (len(kept), rejected) == (40, [])
    assert (kept[0]["user_id"], kept[39]["user_id"], kept[0]["text"]) == ("1000", "76561197970000000", "café")
    broken = pa.table(columns | {"review": pa.array([b"caf\xe9", *reviews[1:]], pa.binary())})
    pq.write_table(broken, tmp_path / "a.parquet")
    kept, _ = read(tmp_path / "a.parquet", str(tmp_path / "proposed.yaml"))
    assert (len(kept), kept[0]["text"]) == (40, "caf\ufffd")


def test_minus_one_and_most_zeros_are_no_ratings(tmp_path: Path) -> None:
    for name, unrated, share in (("a.csv", -1, 5), ("b.csv", 0, 2)):
        path = tmp_path / name
        stars: list[object] = [unrated if i % share == 0 else i % 9 + 2 - (i % 9 > 7) * 9 for i in range(40)]
        path.write_text(as_csv(table(stars=stars)))
        found = proposed(path)
        assert "rating: {scale: [1, 10]}" in (found.yaml or "")
        assert "seem to mean 'not rated'" in (found.yaml or "")
        kept, rejected = use(found, path, tmp_path)
        assert {row["reason"] for row in rejected} == {"rating outside 1..10"}
        assert len(rejected) == stars.count(unrated)
        assert len(kept) + len(rejected) == 40


@pytest.mark.parametrize(
    ("column", "values", "line"),
    [
        ("sentiment", ["positive", "negative"], "rating: {values: {negative: 1, positive: 5}}"),
        ("recommendation", ["Recommended", "Not Recommended"], '{values: {"not recommended": 1, recommended: 5}}'),
        ("voted_up", ["True", "False"], 'rating: {values: {"false": 1, "true": 5}}'),
        ("liked", [1, 0], 'rating: {values: {"0": 1, "1": 5}}'),
        ("review_score", [1, -1], 'rating: {values: {"-1": 1, "1": 5}}'),
        ("score", [1.0, -1.0], 'rating: {values: {"-1.0": 1, "1.0": 5}}'),
        ("sentiment", ["Neutral", "Negative", "Positive"], "{values: {negative: 1, neutral: 3, positive: 5}}"),
    ],
)
def test_opinions_are_read_by_a_profile_that_inspect_names(
    tmp_path: Path, column: str, values: list[object], line: str
) -> None:
    rows = table(stars=[values[i % len(values)] for i in range(40)])
    rows[0][2] = column
    (tmp_path / "a.csv").write_text(as_csv(rows))
    why = inspect([str(tmp_path)]).why_none
    assert line in why
    profile = tmp_path / "mine.yaml"
    profile.write_text(
        "description: x\nidentity: [user_id]\ntimestamp: {formats: ['%Y-%m-%d']}\n"
        f"columns: {{user_id: reviewer, item_id: product, rating: {column}, text: review, timestamp: date}}\n"
        + why.split("`")[1]
    )
    kept, rejected = read(tmp_path, str(profile))
    assert (len(kept), rejected) == (40, [])
    assert {row["rating"] for row in kept} == ({1, 5} if len(values) == 2 else {1, 3, 5})


def test_opinions_in_flags_and_numbers_have_stars_and_others_have_none() -> None:
    rule = RatingRule.model_validate({"values": {True: 5, False: 1, "1": 5, "0": 1}})
    columns: list[list[object]] = [[1, 0], [1.0, 0.0], ["1", " FALSE"], ["True", "0"]]
    for values in columns:
        frame = pl.DataFrame({"v": values})
        assert frame.select(rating_of(frame.schema["v"], pl.col("v"), rule)).to_series().to_list() == [5, 1]
    assert pl.DataFrame({"v": ["maybe"]}).select(rating_of(pl.String(), pl.col("v"), rule)).item() is None


@pytest.mark.parametrize("rule", [{"values": {"a": 6}}, {"values": {"a": 1}, "words": True}])
def test_values_give_stars_and_nothing_else_does(rule: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="values gives"):
        RatingRule.model_validate(rule)


def test_a_thousand_votes_in_german_are_not_one(tmp_path: Path) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text(
        "description: x\ntimestamp: {formats: ['%Y-%m-%d']}\n"
        "columns: {user_id: reviewer, item_id: product, rating: stars, text: review, timestamp: date,"
        " helpful_votes: v}\n"
    )
    (tmp_path / "a.csv").write_text(as_csv(table(v=["1.000", "7.0", "1,000", "3"] * 10)))
    kept, _ = read(tmp_path / "a.csv", str(profile))
    assert [row["helpful_votes"] for row in kept[:4]] == [None, 7, 1000, 3]


def test_inspect_warns_of_ids_without_their_digits_and_of_bytes(tmp_path: Path) -> None:
    products: list[object] = [f"{9.78e12 + 3e8 * i:.5E}" for i in range(40)]
    (tmp_path / "a.csv").write_text(as_csv(table(product=products, review=[f"b'Fine lamp {i}'" for i in range(40)])))
    chosen = proposed(tmp_path).chosen
    assert chosen is not None
    assert [warning.split(":")[0] for warning in chosen.warnings] == [
        "100% of item_id are numbers such as 9.78E+12, as a spreadsheet writes them",
        "100% of text are written as Python's bytes, b'…'",
    ]
