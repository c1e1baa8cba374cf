"""Word counts on a real Ray session, counted by hand and against the obvious computation."""

from __future__ import annotations

import datetime as dt
import random
import re
from collections import Counter
from typing import Any

import pyarrow as pa
import pytest

from tasks.core.errors import SettingsError
from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.domain.schemas import COUNTS_BY_RATING
from tasks.engines import tokenizer
from tasks.stages.count_words import count_words
from tests.support.stage_runs import made, put_reviews, settings

pytestmark = pytest.mark.usefixtures("ray_session")
DAY = dt.datetime(2015, 1, 1, tzinfo=dt.UTC)
WORD = re.compile(r"\w+(?:['’]\w+)*")


def day(n: float) -> dt.datetime:
    return DAY + dt.timedelta(days=n)


def test_words_of_three_reviews_counted_by_hand(store: SnapshotStore) -> None:
    reviews = put_reviews(
        store,
        [
            {"timestamp": day(0), "title": "Great Lamp", "text": "great, GREAT lamp! It's 100% great_value"},
            {"timestamp": day(1), "title": "", "text": "Don't buy. don’t — naïve 灯"},
        ],
        [{"timestamp": day(2), "title": "lamp", "text": ""}],
    )
    done = made(store, count_words, [reviews], settings("count_words.reducers=3").count_words).snapshot
    rows = done.read().to_pylist()
    assert {r["token"]: (r["count"], r["documents"]) for r in rows} == {
        "great": (3, 1),
        "lamp": (3, 2),
        "it's": (1, 1),
        "100": (1, 1),
        "great_value": (1, 1),
        "don't": (1, 1),
        "buy": (1, 1),
        "don’t": (1, 1),
        "naïve": (1, 1),
        "灯": (1, 1),
    }
    assert done.manifest.counts == {"documents": 3, "tokens": 10, "words": 14}
    assert {r["n"] for r in rows} == {1}
    for file in done.files():
        tokens = pa.parquet.read_table(file)["token"].to_pylist()
        assert tokens == sorted(tokens)


def counted(reviews: Snapshot, split: Any, ngrams: int, between: str) -> dict[str, dict[str, Any]]:
    """The same by dictionaries, a review after the other."""
    found: dict[str, dict[str, Any]] = {}
    for review in reviews.read().to_pylist():
        pieces = split(review["title"] + "\n" + review["text"])
        grams = Counter(
            (n, between.join(pieces[i : i + n])) for n in range(1, ngrams + 1) for i in range(len(pieces) - n + 1)
        )
        for (n, token), count in grams.items():
            row = found.setdefault(
                token,
                {"token": token, "n": n, "count": 0, "documents": 0, **dict.fromkeys(COUNTS_BY_RATING, 0)}
                | {"first_seen": review["timestamp"]},
            )
            row["count"] += count
            row["documents"] += 1
            row[f"rating_{int(review['rating'] + 0.5)}"] += count
            row["first_seen"] = min(row["first_seen"], review["timestamp"])
    return found


def texts(seed: int, n: int) -> list[dict[str, Any]]:
    """Reviews of a few words; "the" is a third of all of them."""
    rng = random.Random(seed)
    words = ["the"] * 12 + ["Lamp", "isn't", "don’t", "灯", "naïve", "x", "100%", "  two", "a_b", "\u00a0", "😀", ""]
    return [
        {"timestamp": day(rng.randrange(9)), "rating": rng.choice([1, 1.5, 2, 3.5, 4, 5]), "title": rng.choice(words)}
        | {"text": " ".join(rng.choices(words, k=rng.randrange(20)))}
        for _ in range(n)
    ]


@pytest.mark.parametrize(("splitting", "ngrams"), [("words", 3), ("gpt2", 2)])
def test_every_column_is_what_dictionaries_count(store: SnapshotStore, splitting: str, ngrams: int) -> None:
    reviews = put_reviews(store, texts(1, 40), texts(2, 1), texts(3, 25))
    own = tokenizer.load("gpt2").backend_tokenizer.pre_tokenizer.pre_tokenize_str

    def gpt2(text: str) -> list[str]:
        return [text[start:end] for _, (start, end) in own(text)]

    def words(text: str) -> list[str]:
        return WORD.findall(text.lower())

    config = settings(f"count_words.splitting={splitting}", f"count_words.ngrams={ngrams}").count_words
    done = made(store, count_words, [reviews], config).snapshot
    between, split = (" ", words) if splitting == "words" else ("\x1f", gpt2)
    expected = counted(reviews, split, ngrams, between)
    assert {row["token"]: row for row in done.read().to_pylist()} == expected
    assert done.manifest.counts["words"] == sum(row["count"] for row in expected.values() if row["n"] == 1)
    assert done.facts == {"splitting": splitting, "ngrams": ngrams}


def test_a_token_is_in_one_file_and_files_are_sorted_by_its_bytes(store: SnapshotStore) -> None:
    reviews = put_reviews(store, texts(4, 60))
    done = made(store, count_words, [reviews], settings("count_words.ngrams=2").count_words).snapshot
    files = [pa.parquet.read_table(file)["token"].to_pylist() for file in done.files()]
    assert len(files) == 4
    assert all(tokens == sorted(tokens, key=str.encode) for tokens in files)
    assert len({t for tokens in files for t in tokens}) == sum(len(tokens) for tokens in files) > 60


def test_the_cut_of_the_reviews_into_files_does_not_change_the_counts(store: SnapshotStore) -> None:
    rows = texts(5, 50)
    config = settings("count_words.ngrams=2").count_words
    whole = made(store, count_words, [put_reviews(store, rows)], config).snapshot
    other = SnapshotStore(store.root / "other")
    cut = made(other, count_words, [put_reviews(other, rows[:1], rows[1:30], rows[30:])], config).snapshot
    assert cut.digest == whole.digest


def test_reviews_without_any_word_count_none(store: SnapshotStore) -> None:
    reviews = put_reviews(store, [{"timestamp": day(0)}, {"timestamp": day(1), "text": " \t\n "}])
    done = made(store, count_words, [reviews], settings("count_words.ngrams=3").count_words).snapshot
    assert done.rows() == 0
    assert done.manifest.counts == {"documents": 2, "tokens": 0, "words": 0}
    assert done.read().num_rows == 0


def test_four_neighbours_are_no_choice() -> None:
    with pytest.raises(SettingsError, match=r"count_words\.ngrams"):
        settings("count_words.ngrams=4")
    with pytest.raises(SettingsError, match=r"count_words\.splitting"):
        settings("count_words.splitting=letters")
