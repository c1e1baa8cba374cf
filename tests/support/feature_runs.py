"""Reviews with every column that features read, and their features through all the stages before."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

import polars as pl
import pyarrow as pa

from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.domain.schemas import TOKENS, WORD_COUNTS
from tasks.parallel import time_borders
from tasks.stages.count_words import count_words
from tasks.stages.features.settings import FeaturesConfig
from tasks.stages.features.stage import features
from tasks.stages.items import COLUMNS as ITEM_COLUMNS
from tasks.stages.language_model.stage import language_model
from tasks.stages.tokenize import tokenize
from tests.support.stage_runs import made, put, put_reviews, settings

BORDERS = (0.25, 0.5, 0.75)
SETTINGS = settings(
    f"features.text_score.borders={list(BORDERS)}",
    "features.text_score.dimensions=1024",
    "count_words.reducers=2",
    "features.groups.helpful=true",
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
            "category": rng.choice(["Books", "Toys", None]),
            "total_votes": (votes := rng.choice([None, 0, 3, 10])),
            "helpful_votes": votes and rng.randrange(votes + 1),
        }
        rows.append(row)
    return rows


CATALOGUE: Rows = [
    {"item_id": f"i{i}", "brand": f"b{i % 2}", "price": 10.0 + i, "category": "Lamps", "count_also_viewed": i}
    for i in range(4)  # i4 is in no catalogue
]


def put_items(store: SnapshotStore, *parts: Rows) -> Snapshot:
    plain = {"title": "t", "count_also_viewed": 0}
    tables = [pa.Table.from_pylist([{**plain, **row} for row in part], ITEM_COLUMNS) for part in parts]
    return put(store, "items", {"": tables})


def feature_table(
    store: SnapshotStore, rows: Rows, config: Any = SETTINGS, items: Rows | None = CATALOGUE
) -> tuple[Snapshot, pl.DataFrame]:
    """(the reviews, their features) through count_words, tokenize, language_model and features; three files."""
    reviews = put_reviews(store, rows[:70], rows[70:71], rows[71:])
    counts = made(store, count_words, [reviews], config.count_words).snapshot
    tokens = made(store, tokenize, [reviews], config.tokenize).snapshot
    language = made(store, language_model, [reviews, tokens], config.language_model).snapshot
    catalogue = put_items(store, items[:1], items[1:]) if items else None
    done = made(store, features, [reviews, counts, tokens, language, None, catalogue, None], config.features).snapshot
    return reviews, pl.DataFrame(pl.from_arrow(done.read()))


def features_alone(store: SnapshotStore, rows: Rows, config: FeaturesConfig) -> Snapshot:
    """The features of reviews of which the stages before say nothing: no tokens, words, scores or products."""
    reviews = put_reviews(store, rows)
    counts = put(store, "count-words", {"": [WORD_COUNTS.empty_table()]}, facts={"splitting": "words"})
    ids = [{"review_id": row["review_id"], "input_ids": [], "n_tokens": 0} for row in rows]
    tokens = put(store, "tokenize", {"": [pa.Table.from_pylist(ids, TOKENS)]})
    language = put(store, "language-model", {})
    return made(store, features, [reviews, counts, tokens, language, None, None, None], config).snapshot


def block_borders(reviews: Snapshot) -> list[int]:
    return time_borders.borders(reviews.files(), BORDERS)
