"""Features on a real Ray session: aggregates of the past and shapes of texts against plain loops and by hand."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tasks.core.errors import SettingsError
from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.stages.count_words import count_words
from tasks.stages.features.group import Words
from tasks.stages.features.groups import declared_groups
from tasks.stages.features.groups.shape import word_shares
from tasks.stages.features.past_aggregates import KNOWN
from tasks.stages.features.stage import KEPT
from tests.support.feature_runs import CATALOGUE, DAY, Rows, block_borders, feature_table, features_alone, some_reviews
from tests.support.stage_runs import made, put_reviews, settings

pytestmark = pytest.mark.usefixtures("ray_session")


def past_of(rows: Rows, row: dict[str, Any], key: str) -> Rows:
    """Reviews of the same user or item strictly before this one's moment."""
    return [r for r in rows if r[key] == row[key] and r["timestamp"] < row["timestamp"]]


def known_of(past: Rows, row: dict[str, Any]) -> dict[str, float | None]:
    """Compute the past aggregates of a review by their definition; past: the earlier reviews of its key."""
    if not past:
        return {name: 0 if name == "count" else None for name in KNOWN}
    ratings = [r["rating"] for r in past]
    days = [(row["timestamp"] - r["timestamp"]).days for r in past]
    votes = [(r["helpful_votes"], r["total_votes"]) for r in past if r["total_votes"]]
    total = sum(t for _, t in votes)
    return {
        "count": len(past),
        "mean": np.mean(ratings),
        "std": np.std(ratings),
        "ones": np.mean([r == 1 for r in ratings]),
        "fives": np.mean([r == 5 for r in ratings]),
        "last": np.mean([r["rating"] for r, d in zip(past, days, strict=True) if d == min(days)]),
        "days_since_first": max(days),
        "days_since_last": min(days),
        "helpful": sum(h for h, _ in votes) / total if total else None,
        "votes": total / len(past),
    }


def assert_close(found: pl.Series, wanted: Sequence[float | None], name: str) -> None:
    assert [v is None for v in found] == [v is None for v in wanted], name
    told = [v for v in wanted if v is not None]
    np.testing.assert_allclose(found.drop_nulls(), told, rtol=1e-5, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("kind", ["user", "item"])
def test_aggregates_are_of_strictly_earlier_reviews(original: tuple[Snapshot, pl.DataFrame], kind: str) -> None:
    rows = some_reviews()
    expected = [known_of(past_of(rows, row, f"{kind}_id"), row) for row in rows]
    for name in KNOWN:
        assert_close(original[1][f"{kind}_{name}"], [e[name] for e in expected], name)
    assert (original[1][f"{kind}_count"] > 0).sum() > 100


def test_the_catalogue_tells_of_items_and_of_the_past_of_brands_and_categories(
    original: tuple[Snapshot, pl.DataFrame],
) -> None:
    table = original[1]
    items = {item["item_id"]: item for item in CATALOGUE}
    rows = [
        {**r, "brand": i.get("brand"), "category": r["category"] or i.get("category")}
        for r in some_reviews()
        for i in [items.get(r["item_id"], {})]
    ]
    for key in ("category", "brand"):
        expected = [known_of(past_of(rows, row, key), row) if row[key] else None for row in rows]
        assert_close(table[f"{key}_count"], [e and np.log1p(e["count"]) for e in expected], key)
        assert_close(table[f"{key}_mean"], [e and e["mean"] for e in expected], key)
        assert 0 < table[f"{key}_mean"].null_count() < 60
    known = [items.get(r["item_id"], {}) for r in rows]
    assert table["price"].to_list() == [i.get("price") for i in known]
    assert table["also_viewed_count"].to_list() == [i.get("count_also_viewed") for i in known]
    assert table["sales_rank"].null_count() == len(table)


def test_a_user_and_items_past_by_hand_reviews_of_one_moment_do_not_see_each_other(store: SnapshotStore) -> None:
    told = [(0, "a", 5.0), (2, "a", 1.0), (2, "a", 3.0), (2, "b", 4.0), (5, "a", 2.0)]
    rows = [{"timestamp": DAY + dt.timedelta(days=d), "user_id": u, "rating": r, "text": "Word"} for d, u, r in told]
    _, table = feature_table(store, rows, settings("features.groups.text=false"), None)
    assert table["user_count"].to_list() == [0, 1, 1, 0, 3]
    assert table["user_mean"].to_list() == [None, 5, 5, None, 3]
    assert table["user_std"].to_list() == pytest.approx([None, 0, 0, None, (8 / 3) ** 0.5])
    assert table["user_days_since_last"].to_list() == [None, 2, 2, None, 3]
    assert table["item_count"].to_list() == [0, 1, 1, 1, 4]
    assert table["item_mean"].to_list() == [None, 5, 5, 5, 3.25]
    assert table["user_fives"].to_list() == pytest.approx([None, 1, 1, None, 1 / 3])
    assert table["user_last"].to_list() == [None, 5, 5, None, 2]
    assert table["user_days_since_first"].to_list() == [None, 2, 2, None, 5]
    assert "text_score" not in table.columns
    assert "price" not in table.columns


def test_the_shape_of_a_text_by_hand(store: SnapshotStore) -> None:
    rows = [
        {"timestamp": DAY, "title": "Wow!", "text": "GREAT lamp! Buy? 10/10! sooo so", "verified": True},
        {"timestamp": DAY, "title": "", "text": "", "verified": False},
        {"timestamp": DAY, "title": "", "text": "très bon 灯", "verified": None},
    ]
    _, table = feature_table(store, rows, settings("features.groups.text=false"), None)
    expected = {
        "n_chars": [31, 0, 10],
        "title_chars": [4, 0, 0],
        "title_exclamations": [25, 0, 0],
        "title_capitals": [1 / 3, 0, 0],
        "exclamations": [200 / 31, 0, 0],
        "questions": [100 / 31, 0, 0],
        "capitals": [6 / 18, 0, 0],
        "digits": [400 / 31, 0, 0],
        "word_chars": [26 / 6, None, 8 / 3],
        "shouted": [1 / 6, 0, 0],
        "stretched": [100 / 6, 0, 0],
        "new_words": [1, 0, 1],  # all of one day: none has seen the others' words
        "unique_words": [7 / 8, 0, 1],  # 10 comes twice
        "verified": [1, 0, None],
        "month": [1, 1, 1],
        "weekday": [4, 4, 4],
    }
    for name, wanted in expected.items():
        assert table[name].to_list() == pytest.approx(wanted), name
    assert table["n_tokens"].to_list()[1] == 0
    assert table["text_digest"].is_null().to_list() == [False, True, False]


def test_the_target_decides_labels_and_groups_decide_columns(store: SnapshotStore) -> None:
    rows = some_reviews(80)
    config = settings("features.target=helpful", "features.min_votes=10", "features.groups.shape=false")
    _, table = feature_table(store, rows, config, None)
    labels = [r["helpful_votes"] / 10 if r["total_votes"] == 10 else None for r in rows]
    assert table["label"].to_list() == pytest.approx(labels)
    (snapshot,) = [s for s in store if s.stage == "features"]
    facts = snapshot.facts
    groups = ["user", "item", "helpful", "catalogue", "context", "stars", "text", "language"]
    assert set(facts["groups"]) == set(groups)
    assert facts["features"] == [name for group in groups for name in facts["groups"][group]]
    assert (facts["target"], facts["linear"]) == ("helpful", "text_score")
    extra = ["text_digest", "label", "n_chars"]  # a slice of the evaluation is by length
    assert set(table.columns) == {*KEPT, *extra, *facts["features"]}


def test_with_all_groups_switched_off_there_is_nothing_to_learn_from(store: SnapshotStore) -> None:
    off = [f"features.groups.{group}=false" for group in declared_groups()]
    with pytest.raises(SettingsError, match="every group of features is switched off"):
        features_alone(store, some_reviews(80), settings(*off).features)


def test_each_review_has_the_language_models_scores_of_its_own(original: tuple[Snapshot, pl.DataFrame]) -> None:
    reviews, table = original
    (language,) = [s for s in SnapshotStore(Path(reviews.folder).parents[1]) if s.stage == "language-model"]
    scores = pl.DataFrame(pl.from_arrow(language.read()))
    assert table.select(scores.columns).equals(scores)
    assert scores["lm_high"].is_not_null().sum() > 50


@pytest.mark.parametrize("changed", ["count_words.ngrams=3", "count_words.splitting=gpt2"])
def test_the_share_of_new_words_is_of_words_as_they_were_counted_without_ngrams(
    store: SnapshotStore, changed: str
) -> None:
    rows = [{"timestamp": DAY + dt.timedelta(days=i), "text": t} for i, t in enumerate(["a b", "a c", "a  b c d"])]
    reviews = put_reviews(store, rows)
    config = settings(changed)
    counts = made(store, count_words, [reviews], config.count_words).snapshot
    table = pl.DataFrame(pl.from_arrow(reviews.read()))
    share = word_shares(table, Words.read(counts.files(), counts.facts["splitting"]))["new_words"]
    # Words: a b | a c | a b c d. GPT-2's pieces, after a line break: \n a " b" | \n a " c" | \n a " " " b" " c" " d".
    expected = [1, 1 / 2, 1 / 4] if "ngrams" in changed else [1, 1 / 3, 2 / 6]
    assert share.tolist() == pytest.approx(expected)


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
