"""No look ahead: what comes later changes no feature, and labels that mean nothing teach nothing."""

from __future__ import annotations

import random

import numpy as np
import polars as pl
import pytest

from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.stages.evaluate.ablation import losses_of
from tasks.stages.features.groups import declared_groups
from tasks.stages.split import split
from tests.support.feature_runs import WORDS, Rows, block_borders, feature_table, some_reviews
from tests.support.stage_runs import made, nothing_alike, settings

pytestmark = pytest.mark.usefixtures("ray_session")
# Not of the stage text-model, which is off here: its own tests say that a block is scored by earlier ones.
OFF = ("stars", "deep")
NAMES = [name for group in declared_groups().values() if group.name not in OFF for name in group.columns]


def all_but_who_and_what(late: Rows) -> Rows:
    told = {"title": "changed", "category": "New", "verified": True, "total_votes": 99}
    return [
        {**r, **told, "rating": 6 - r["rating"], "text": f"Wholly DIFFERENT? {WORDS[5]} {i}", "helpful_votes": i % 100}
        for i, r in enumerate(late)
    ]


def shuffled_ratings(late: Rows) -> Rows:
    ratings = [r["rating"] for r in late]
    random.Random(1).shuffle(ratings)
    return [{**r, "rating": rating} for r, rating in zip(late, ratings, strict=True)]


def shuffled_authors_and_items(late: Rows) -> Rows:
    order = random.Random(2).sample(range(len(late)), len(late))
    return [
        {**r, "user_id": late[j]["user_id"], "item_id": late[j]["item_id"]} for r, j in zip(late, order, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("shuffled", [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_with_shuffled_ratings_a_model_scores_like_predict_the_mean(store: SnapshotStore, shuffled: bool) -> None:
    rows = some_reviews(2000)
    rows = shuffled_ratings(rows) if shuffled else rows
    _, _ = feature_table(store, rows)
    (table,) = [s for s in store if s.stage == "features"]
    cut = made(store, split, [table, nothing_alike(store)], settings("split.repeats=keep").split).snapshot
    config = settings("train.rounds=30", "train.params.max_depth=3").train
    losses = losses_of(cut.files("train"), cut.files("test"), cut.facts["features"], "rating", config)
    ratings = {name: cut.read(name)["label"].to_numpy() for name in ("train", "test")}
    mean = np.sqrt(np.mean((ratings["test"] - ratings["train"].mean()) ** 2))
    ratio = np.sqrt(losses.mean()) / mean
    assert 0.97 < ratio < 1.06 if shuffled else ratio < 0.5


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            (all_but_who_and_what, "border"),
            id="other-ratings-texts-votes-and-categories-from-a-border-on",
            marks=pytest.mark.nightly,
        ),
        pytest.param(
            (all_but_who_and_what, "inside"), id="other-ratings-texts-votes-and-categories-from-inside-a-block-on"
        ),
        pytest.param((shuffled_ratings, "border"), id="shuffled-ratings-from-a-border-on", marks=pytest.mark.nightly),
        pytest.param((shuffled_authors_and_items, "inside"), id="shuffled-users-and-items-from-inside-a-block-on"),
    ],
)
def earlier_rows(
    request: pytest.FixtureRequest, original: tuple[Snapshot, pl.DataFrame], tmp_path_factory: pytest.TempPathFactory
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Features of all reviews before a moment, as they were and after a change of the reviews from it on."""
    change, where = request.param
    reviews, before = original
    _, second, third = block_borders(reviews)
    cut = second if where == "border" else (second + third) // 2
    rows = some_reviews()
    ms = [int(r["timestamp"].timestamp() * 1000) for r in rows]
    late = [i for i, t in enumerate(ms) if t >= cut]
    assert 20 < len(late) < len(rows) - 20
    for i, row in zip(late, change([rows[i] for i in late]), strict=True):
        rows[i] = row
    _, after = feature_table(SnapshotStore(tmp_path_factory.mktemp("changed")), rows)
    assert not after.equals(before)
    early = pl.Series([t < cut for t in ms])
    return before.filter(early), after.filter(early)


@pytest.mark.slow
@pytest.mark.parametrize("column", NAMES)
def test_no_feature_of_a_review_depends_on_later_ones(
    earlier_rows: tuple[pl.DataFrame, pl.DataFrame], column: str
) -> None:
    before, after = earlier_rows
    changed = (before[column].ne_missing(after[column])).sum()
    assert changed == 0, f"{column} of {changed} of {len(before)} earlier reviews"
