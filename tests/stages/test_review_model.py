"""A packaged model gives a review the same prediction, to the last bit, alone and among others."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tasks.stages.package.raw_reviews import canonical
from tasks.stages.package.review_model import ReviewModel
from tests.support.served_models import START_MS, packages, reviews

ODD = (
    "",
    "good works!!!",
    "ÄÖ <b>bad</b> &amp;amp; fine  love",
    "5.0 out of 5 stars",
    "a\u00a0b\tc www.x.y",
    "灯 123 ??",
)


@pytest.fixture(scope="module")
def model() -> ReviewModel:
    return ReviewModel.load(packages()["2"])


def odd_reviews() -> pl.DataFrame:
    """Known and unknown users, items and categories; texts to clean; times before and within what the model knows."""
    known, i = reviews(120, seed=5), pl.int_range(pl.len())
    texts = pl.Series([ODD[i % len(ODD)] for i in range(120)])
    early = pl.lit(START_MS - 10**10).cast(pl.Datetime("ms", "UTC"))
    return known.with_columns(
        user_id=pl.when(i % 3 == 0).then(pl.lit("nobody")).otherwise("user_id"),
        item_id=pl.when(i % 4 == 0).then(pl.lit("nothing")).otherwise("item_id"),
        category=pl.when(i % 5 == 0).then(None).otherwise("category"),
        verified=pl.when(i % 7 == 0).then(None).otherwise("verified"),
        text=pl.when(i % 2 == 0).then(texts).otherwise("text"),
        title=pl.when(i % 6 == 0).then(texts).otherwise("title"),
        timestamp=pl.when(i % 11 == 0).then(early).otherwise("timestamp"),
    )


def test_a_review_alone_has_the_features_and_the_prediction_that_it_has_among_others(model: ReviewModel) -> None:
    rows = odd_reviews()
    clean = canonical(rows, model.about)
    together = model.features(clean)
    assert (np.unique(together, axis=0).shape[0], np.isnan(together).any()) == (120, True)
    np.testing.assert_array_equal(together, np.concatenate([model.features(clean[i : i + 1]) for i in range(120)]))
    np.testing.assert_array_equal(together, np.concatenate([model.features(clean[:70]), model.features(clean[70:])]))
    np.testing.assert_array_equal(model.predict(rows), [model.predict(rows[i : i + 1])[0] for i in range(120)])
    assert model.predict(rows[:0]).shape == (0,)


def test_what_nobody_knows_is_no_number(model: ReviewModel) -> None:
    rows = canonical(odd_reviews(), model.about)
    columns = model.columns(rows)
    assert set(columns) >= set(model.names)
    assert {column.dtype for column in columns.values()} == {np.dtype(np.float32)}
    nobody = (rows["user_id"] == "nobody").to_numpy()
    assert np.isnan(columns["user_mean"][nobody]).all()
    assert (columns["user_count"][nobody] == 0).all()
    assert np.isnan(columns["verified"]).tolist() == rows["verified"].is_null().to_list()
    assert columns["month"].tolist() == [
        when.month for when in np.maximum(rows["timestamp"].to_numpy(), since(model)).tolist()
    ]


def since(model: ReviewModel) -> np.datetime64:
    return np.datetime64(model.about.since, "ms")
