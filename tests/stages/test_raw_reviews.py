"""Raw reviews as programs give them to a model: in many forms, or refused with the name of what is wrong."""

from __future__ import annotations

from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from tasks.core.errors import InputError
from tasks.settings import load_settings
from tasks.stages.package.layout import About
from tasks.stages.package.raw_reviews import SCHEMA, canonical

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
    found = canonical([ROW, {**ROW, "timestamp": "2015-12-01"}], ABOUT)["timestamp"]
    assert [moment.hour for moment in found] == [10, 0]


@pytest.mark.parametrize(
    ("reviews", "what"),
    [
        ([{k: v for k, v in ROW.items() if k != "text"}], "the reviews have no column text"),
        ([{**ROW, "user_id": None}], "1 reviews have no user_id"),
        ([ROW, {**ROW, "timestamp": "yesterday"}], 'timestamp cannot be read as .*"yesterday"'),
        ([{**ROW, "verified": "perhaps"}], "verified cannot be read as Boolean"),
        ([{**ROW, "rating": "five"}], "rating cannot be read as Float32"),
    ],
)
def test_what_is_wrong_is_named(reviews: Any, what: str) -> None:
    with pytest.raises(InputError, match=what):
        canonical(reviews, ABOUT)


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
