"""Raw reviews as programs give them to a model: in many forms, or refused with the name of what is wrong."""

from __future__ import annotations

import runpy
import warnings
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from tasks.core.errors import InputError
from tasks.settings import load_settings
from tasks.sources import Period, load_profile, to_canonical
from tasks.stages.package.layout import About
from tasks.stages.package.mlflow_model import SCRIPT, signature
from tasks.stages.package.raw_reviews import REQUIRED, SCHEMA, canonical

ABOUT = About(
    target="rating", features=[], groups={"text": []}, past={}, since=0, until=0, clean=load_settings().clean,
    splitting="words", max_tokens=None, language=None, reviews=1,
)  # fmt: skip
ROW = {"user_id": "U1", "item_id": "I1", "text": "Works.", "timestamp": "2015-12-01T10:00:00Z"}
AT = 1_448_964_000_000


@pytest.mark.parametrize(
    "reviews",
    [
        [ROW],
        pd.DataFrame([ROW]),
        pl.DataFrame([ROW]),
        pa.Table.from_pylist([ROW]),
        pd.DataFrame([{**ROW, "timestamp": pd.Timestamp("2015-12-01 10:00")}]),
        pd.DataFrame([{**ROW, "timestamp": pd.Timestamp("2015-12-01 11:00", tz="Europe/Berlin")}]),
        [{**ROW, "timestamp": AT}],
        [{**ROW, "timestamp": "2015-12-01 12:00:00.000+02:00"}],
        [{**ROW, "timestamp": "2015-12-01 10:00:00", "title": None, "verified": None, "more": 1}],
        [{**ROW, "timestamp": "2015-12-01T10:00"}],
        [{**ROW, "timestamp": "2015-12-01T10:00Z"}],
        [{**ROW, "timestamp": "2015-12-01T12:00+02"}],
        [{**ROW, "timestamp": "20151201T100000Z"}],
        [{**ROW, "timestamp": "2015-12-01T10:00:00,000Z"}],
        [{**ROW, "timestamp": float(AT)}],
    ],
)
def test_every_form_of_a_review_becomes_the_same_row(reviews: Any) -> None:
    found = canonical(reviews, ABOUT)
    assert dict(found.schema) == SCHEMA
    (row,) = found.to_dicts()
    assert (row["user_id"], row["item_id"], row["title"], row["text"]) == ("U1", "I1", "", "Works.")
    assert int(row["timestamp"].timestamp() * 1000) == AT
    assert [row[name] for name in ("rating", "verified", "category")] == [None, None, None]


def test_dates_without_a_time_and_times_may_be_mixed() -> None:
    times = ["2015-12-01T10:00:00Z", "2015-12-01", "20151201", "2015-12-01T10:00:00,5Z", "2015-12-01 09:00:00.5-01"]
    found = canonical([{**ROW, "timestamp": time} for time in times], ABOUT)["timestamp"]
    assert [(m.day, m.hour, m.microsecond) for m in found] == [
        (1, 10, 0), (1, 0, 0), (1, 0, 0), (1, 10, 500_000), (1, 10, 500_000),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("reviews", "what"),
    [
        ([{k: v for k, v in ROW.items() if k != "text"}], "the reviews have no column text"),
        ([{**ROW, "user_id": None}], "1 reviews have no user_id"),
        ([ROW, {**ROW, "timestamp": "yesterday"}], 'timestamp cannot be read as ISO 8601: "yesterday"'),
        ([ROW, {**ROW, "timestamp": "2015-13-01"}], 'timestamp cannot be read as ISO 8601: "2015-13-01"'),
        ([ROW, {**ROW, "timestamp": "2015-12-01T10:00:00Zulu"}], "timestamp cannot be read as ISO 8601"),
        ([{**ROW, "timestamp": AT // 1000}], "milliseconds since 1970 expected, .* looks like seconds.*: 1448964000$"),
        ([{**ROW, "timestamp": AT * 1000}], "milliseconds since 1970 expected, of the years 1990 to 2099: 1448"),
        ([{**ROW, "timestamp": None}], "1 reviews have no timestamp"),
        ([{**ROW, "verified": "perhaps"}], "verified cannot be read as Boolean"),
        ([{**ROW, "rating": "five"}], "rating cannot be read as Float32"),
        ([ROW, {**ROW, "item_id": " "}], "1 reviews have no item_id"),
        (pd.DataFrame([ROW, {**ROW, "text": 5}]), "column text: the reviews cannot be read"),
        ([{**ROW, "title": b"x"}, {**ROW, "title": [5]}], "column title: the reviews cannot be read"),
    ],
)
def test_what_is_wrong_is_named(reviews: Any, what: str) -> None:
    with pytest.raises(InputError, match=what):
        canonical(reviews, ABOUT)


def test_a_review_of_stars_alone_has_an_empty_text() -> None:
    assert canonical([{**ROW, "text": None}], ABOUT)["text"].to_list() == [""]


def test_the_stars_are_needed_where_they_are_a_feature() -> None:
    helpful = ABOUT.model_copy(update={"target": "helpful", "groups": {"stars": ["rating"]}})
    with pytest.raises(InputError, match="no column rating"):
        canonical([ROW], helpful)
    assert canonical([{**ROW, "rating": 4}], helpful)["rating"].to_list() == [4.0]


def test_a_package_of_another_version_is_refused() -> None:
    with pytest.raises(InputError, match="a package of format 2, not 1"):
        About.parse(ABOUT.model_copy(update={"format": 2}).model_dump_json(), "here")
    with pytest.raises(InputError, match="no package of this version"):
        About.parse('{"format": 1}', "here")


def test_mlflow_lets_every_ordinary_frame_through_to_where_it_is_checked() -> None:
    from mlflow.models.utils import _enforce_schema

    helpful = ABOUT.model_copy(update={"target": "helpful", "groups": {"stars": ["rating"]}})
    frame = pd.DataFrame([{**ROW, "user_id": 7, "title": float("nan"), "rating": 4, "verified": None}] * 2)
    given = _enforce_schema(frame.assign(rating=frame["rating"].astype("float64")), signature(helpful).inputs)
    found = canonical(given, helpful).to_dicts()[0]
    assert (found["user_id"], found["title"], found["rating"]) == ("7", "", 4.0)
    assert signature(ABOUT).inputs.required_input_names() == list(REQUIRED)


def test_mlflow_does_not_warn_of_hints_when_it_loads_the_registered_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "onceregistry", {})  # MLflow warns once in a process
    with warnings.catch_warnings(record=True) as said:
        runpy.run_path(str(SCRIPT))
    assert [str(warning.message) for warning in said if "type hint" in str(warning.message)] == []


NAMED = {
    "user_id": ["A3", " A3 ", "12.0", '="0012"', "\ufeffA3", "x.0", "12.5"],
    "item_id": [12.0, 12.5, 7.0, 8.0, 9.0, 10.0, 11.0],
    "category": ["Toys", " Toys", "", "  ", None, "3.0", "toys "],
}


def test_ids_and_categories_are_those_that_ingest_reads() -> None:
    source = {"user_id": "customer_id", "item_id": "product_id", "category": "product_category"}
    given = pl.DataFrame({**NAMED, **{name: [ROW[name]] * 7 for name in ("text", "timestamp")}})
    raw = given.rename(source).with_columns(
        review_id=pl.lit("R"), star_rating=pl.lit(5), review_date=pl.lit("2015-12-01")
    )
    period = Period.of(date(1990, 1, 1), None)
    kept, rejected = to_canonical(raw, np.arange(7), load_profile("amazon-us"), "a.csv", period)
    assert rejected.num_rows == 0
    for reviews in (given, given.to_pandas(), given.to_dicts()):
        found = canonical(reviews, ABOUT)
        for name in NAMED:
            assert found[name].to_list() == kept[name].to_pylist()
