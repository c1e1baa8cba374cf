"""Features on a real Ray session: aggregates of the past against a plain loop, and no look ahead, column by column."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

import numpy as np
import polars as pl
import pytest
from stage_runs import made, put_reviews, settings

from tasks import timeline
from tasks.core.snapshots import Snapshot
from tasks.core.store import SnapshotStore
from tasks.count_words import count_words
from tasks.features import FEATURES, features, new_share
from tasks.language_model import language_model
from tasks.tokenize import tokenize

pytestmark = pytest.mark.usefixtures("ray_session")
BLOCKS = 4
SETTINGS = settings(
    f"features.text_score.blocks={BLOCKS}",
    "features.text_score.dimensions=1024",
    "count_words.reducers=2",
)
DAY = dt.datetime(2015, 1, 1, tzinfo=dt.UTC)
WORDS = {1: "awful waste", 2: "poor weak", 3: "fine average", 4: "good solid", 5: "superb lovely"}
Rows = list[dict[str, Any]]


def some_reviews(n: int = 160, seed: int = 5) -> Rows:
    """Reviews in no order of time, several on most days, by few users of few items."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        rating = rng.randint(1, 5)
        noise = " ".join(f"word{rng.randrange(40)}" for _ in range(rng.randrange(6)))
        row = {
            "review_id": f"R{i:04}",
            "user_id": f"u{rng.randrange(9)}",
            "item_id": f"i{rng.randrange(5)}",
            "rating": float(rating),
            "title": rng.choice(["", WORDS[rating].split()[0]]),
            "text": f"{WORDS[rating]} {noise}!",
            "timestamp": DAY + dt.timedelta(days=rng.randrange(60)),
            "verified": rng.choice([True, False, None]),
        }
        rows.append(row)
    return rows


def feature_table(store: SnapshotStore, rows: Rows, config: Any = SETTINGS) -> tuple[Snapshot, pl.DataFrame]:
    """(the reviews, their features) through count_words, tokenize, language_model and features; three files."""
    reviews = put_reviews(store, rows[:70], rows[70:71], rows[71:])
    counts = made(store, count_words, [reviews], config.count_words).snapshot
    tokens = made(store, tokenize, [reviews], config.tokenize).snapshot
    language = made(store, language_model, [reviews, tokens], config.language_model).snapshot
    done = made(store, features, [reviews, counts, tokens, language], config.features).snapshot
    return reviews, pl.DataFrame(pl.from_arrow(done.read()))


@pytest.fixture(scope="module")
def original(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Snapshot, pl.DataFrame]:
    return feature_table(SnapshotStore(tmp_path_factory.mktemp("original")), some_reviews())


def past_of(rows: Rows, row: dict[str, Any], key: str) -> Rows:
    """Reviews of the same user or item strictly before this one's moment."""
    return [r for r in rows if r[key] == row[key] and r["timestamp"] < row["timestamp"]]


@pytest.mark.parametrize("kind", ["user", "item"])
def test_aggregates_are_of_strictly_earlier_reviews(original: tuple[Snapshot, pl.DataFrame], kind: str) -> None:
    rows = some_reviews()
    expected = []
    for row in rows:
        past = past_of(rows, row, f"{kind}_id")
        ratings = [r["rating"] for r in past]
        since = min(((row["timestamp"] - r["timestamp"]).days for r in past), default=None)
        expected.append((len(past), np.mean(ratings), np.std(ratings), since) if past else (0, None, None, None))
    found = original[1].select([f"{kind}_{name}" for name in ("count", "mean", "std", "days_since_last")])
    for (name, column), wanted in zip(found.to_dict().items(), zip(*expected, strict=True), strict=True):
        assert [v is None for v in column] == [v is None for v in wanted], name
        np.testing.assert_allclose(
            [v for v in column if v is not None],
            [v for v in wanted if v is not None],
            rtol=1e-5,
            atol=1e-3,
            err_msg=name,
        )
    assert (original[1][f"{kind}_count"] > 0).sum() > 100


def test_a_user_and_items_past_by_hand_reviews_of_one_moment_do_not_see_each_other(store: SnapshotStore) -> None:
    told = [(0, "a", 5.0), (2, "a", 1.0), (2, "a", 3.0), (2, "b", 4.0), (5, "a", 2.0)]
    rows = [{"timestamp": DAY + dt.timedelta(days=d), "user_id": u, "rating": r, "text": "Word"} for d, u, r in told]
    config = settings("features.text_score.enabled=false")
    _, table = feature_table(store, rows, config)
    assert table["user_count"].to_list() == [0, 1, 1, 0, 3]
    assert table["user_mean"].to_list() == [None, 5, 5, None, 3]
    assert table["user_std"].to_list() == pytest.approx([None, 0, 0, None, (8 / 3) ** 0.5])
    assert table["user_days_since_last"].to_list() == [None, 2, 2, None, 3]
    assert table["item_count"].to_list() == [0, 1, 1, 1, 4]
    assert table["item_mean"].to_list() == [None, 5, 5, 5, 3.25]
    assert table["text_score"].to_list() == [None] * 5


def test_the_shape_of_a_text_by_hand(store: SnapshotStore) -> None:
    rows = [
        {"timestamp": DAY, "title": "Wow", "text": "GREAT lamp! Buy? 10/10!", "verified": True},
        {"timestamp": DAY, "title": "", "text": "", "verified": False},
        {"timestamp": DAY, "title": "", "text": "très bon 灯", "verified": None},
    ]
    config = settings("features.text_score.enabled=false")
    _, table = feature_table(store, rows, config)
    assert table["n_chars"].to_list() == [23, 0, 10]
    assert table["title_chars"].to_list() == [3, 0, 0]
    assert table["n_tokens"].to_list()[1] == 0
    assert table["exclamations"].to_list() == pytest.approx([200 / 23, 0, 0])
    assert table["questions"].to_list() == pytest.approx([100 / 23, 0, 0])
    assert table["capitals"].to_list() == pytest.approx([6 / 12, 0, 0])
    assert table["new_words"].to_list() == [1, 0, 1]  # all of one day: none has seen the others' words
    assert table["verified"].to_list() == [1, 0, None]
    assert table.columns == ["review_id", "user_id", "item_id", "category", "rating", "timestamp", *FEATURES]


def test_each_review_has_the_language_models_scores_of_its_own(store: SnapshotStore) -> None:
    _, table = feature_table(store, some_reviews())
    (language,) = [s for s in store if s.stage == "language-model"]
    scores = pl.DataFrame(pl.from_arrow(language.read()))
    assert table.select(scores.columns).equals(scores)
    assert scores["lm_high"].is_not_null().sum() > 50


@pytest.mark.parametrize("changed", ["count_words.ngrams=3", "count_words.splitting=gpt2"])
def test_the_share_of_new_words_is_of_words_as_they_were_counted_without_ngrams(
    store: SnapshotStore, changed: str
) -> None:
    rows = [{"timestamp": DAY + dt.timedelta(days=i), "text": t} for i, t in enumerate(["a b", "a c", "a  b c d"])]
    reviews = put_reviews(store, rows)
    config = settings(changed, "features.text_score.enabled=false", "language_model.enabled=false")
    counts = made(store, count_words, [reviews], config.count_words).snapshot
    share = new_share(pl.DataFrame(pl.from_arrow(reviews.read())), (counts.files(), counts.facts["splitting"]))
    # Words: a b | a c | a b c d. GPT-2's pieces, after a line break: \n a " b" | \n a " c" | \n a " " " b" " c" " d".
    expected = [1, 1 / 2, 1 / 4] if "ngrams" in changed else [1, 1 / 3, 2 / 6]
    assert share.to_list() == pytest.approx(expected)


def test_rows_stand_in_the_order_of_the_reviews(original: tuple[Snapshot, pl.DataFrame]) -> None:
    assert original[1]["review_id"].to_list() == [r["review_id"] for r in some_reviews()]


def test_the_text_score_is_unknown_in_the_first_block_and_tells_ratings_apart_later(
    original: tuple[Snapshot, pl.DataFrame],
) -> None:
    reviews, table = original
    first, second, third = block_borders(reviews)
    ms = table["timestamp"].dt.epoch("ms")
    assert (table["text_score"].is_null() == (ms < first)).all()
    later = table.filter(ms >= third)
    assert np.corrcoef(later["text_score"].to_numpy(), later["rating"].to_numpy())[0, 1] > 0.8
    assert first < second < third


def block_borders(reviews: Snapshot) -> list[int]:
    return timeline.borders(reviews.files(), [k / BLOCKS for k in range(1, BLOCKS)])


# No look ahead


def other_ratings_and_texts(late: Rows) -> Rows:
    return [
        {**r, "rating": 6 - r["rating"], "title": "changed", "text": f"Wholly DIFFERENT words? {WORDS[5]} {i}"}
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


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((other_ratings_and_texts, "border"), id="other-ratings-and-texts-from-a-border-on"),
        pytest.param((other_ratings_and_texts, "inside"), id="other-ratings-and-texts-from-inside-a-block-on"),
        pytest.param((shuffled_ratings, "border"), id="shuffled-ratings-from-a-border-on"),
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
@pytest.mark.parametrize("column", FEATURES)
def test_no_feature_of_a_review_depends_on_later_ones(
    earlier_rows: tuple[pl.DataFrame, pl.DataFrame], column: str
) -> None:
    before, after = earlier_rows
    changed = (before[column].ne_missing(after[column])).sum()
    assert changed == 0, f"{column} of {changed} of {len(before)} earlier reviews"
