"""Next tokens on a real Ray session: packed blocks in, a perplexity by slice out, below that of the frequencies."""

from __future__ import annotations

import datetime as dt
import random

import pytest

from tasks.core.storage.store import SnapshotStore
from tasks.engines.expectations import Validators
from tasks.stages.next_token.stage import next_token
from tasks.stages.pack_tokens import pack_tokens
from tasks.stages.tokenize import tokenize
from tests.support.stage_runs import made, put_reviews, settings, validated

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.nightly]
pytest.importorskip("torch", reason="the extra deep is not installed")

SMALL = (
    "pack_tokens.enabled=true",
    "pack_tokens.block_size=32",
    "next_token.enabled=true",
    "next_token.vocabulary=40",
    "next_token.context=16",
    "next_token.steps=150",
    "next_token.evaluate_steps=50",
    "next_token.batch=16",
    "next_token.learning_rate=0.01",
    "next_token.validation=0.1",
    "next_token.test=0.1",
    "next_token.shape.width=16",
    "next_token.shape.hidden=32",
)


@pytest.mark.parametrize("form", ["bin", "parquet"])
def test_what_follows_a_word_is_learned_from_either_format(
    store: SnapshotStore, validators: Validators, form: str
) -> None:
    rng = random.Random(1)
    follows = {"red": "apple", "blue": "sky", "green": "grass", "white": "snow"}
    rows = [
        {
            "text": " ".join(f"{word} {follows[word]}" for word in rng.choices(list(follows), k=rng.randint(4, 12))),
            "rating": float(rng.randint(1, 5)),
            "timestamp": dt.datetime(2015, 1, 1, tzinfo=dt.UTC),
            "category": rng.choice(["Toys", "Books"]),
        }
        for _ in range(300)
    ]
    config = settings(*SMALL, f"pack_tokens.format={form}")
    reviews = put_reviews(store, rows[:180], rows[180:])
    tokens = made(store, tokenize, [reviews], config.tokenize).snapshot
    packed = made(store, pack_tokens, [tokens], config.pack_tokens).snapshot
    done = validated(store, next_token, [reviews, tokens, packed], config.next_token, validators)
    counts = done.manifest.counts
    assert counts["learned"] + counts["validated"] + counts["tested"] == packed.manifest.counts["blocks"]
    assert done.facts["perplexity"] < 0.6 * done.facts["of_frequencies"]
    table = done.read().to_pylist()
    assert [row["value"] for row in table if row["slice"] == "category"] == ["Books", "Toys"]
    for kind in ("stars", "length", "category"):
        assert sum(row["tokens"] for row in table if row["slice"] == kind) == table[0]["tokens"] == counts["tokens"]
    assert done.rows("curves") == done.facts["steps"]
