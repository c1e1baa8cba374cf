"""Reviews that are hard to clean, count and aggregate: repeats and ties of every kind, every kind of dirt."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

import pyarrow as pa

from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.domain.schemas import ITEMS, REVIEWS
from tasks.stages.ingest import row_hashes
from tests.support.stage_runs import put

TEXTS = [
    "One.<br />Two.<BR>Three",
    "&lt;br /&gt;Decoded &amp;lt;b&amp;gt;twice &#38;amp;#233;",
    "I <3 this, a < b &amp; c > d",
    "See HTTPS://example.com/a?b=c and WWW.example.com<i>! or http\u017f://x",
    "awww. http is a protocol",
    "bell\x07 tab\tline\u2028break\xa0\u3000 end\x85 ",
    "cafe\u0301 cafe&#769; caf&eacute; \u1e9b\u0323",
    "a&nbsp;&amp;nbsp;b &copy AT&T &notanentity;",
    "<b\nunder='x'>over lines</b> <b unclosed",
    "日本語\u200bのレビュー 😀 ﬁne ½ 2²",
    "Don't 'quote' rock’n’roll o''clock it's_ok DON'T",
    "ΟΔΥΣΣΕΥΣ Σ İstanbul STRASSE ǅ naïve",
    " \n ",
    "",
    "plain words, plain words; nothing else",
]
DAY = dt.datetime(2014, 2, 27, tzinfo=dt.UTC)


def hard_reviews(n: int = 400, seed: int = 3) -> list[dict[str, Any]]:
    """Canonical reviews by 30 users of 25 items in 40 days: ids, pairs and moments that occur several times."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        votes = rng.choice([None, 0, 1, 3, 1200])
        row = {
            "review_id": f"R{i if rng.random() < 0.9 else rng.randrange(n)}",
            "user_id": f"u{int(30 * rng.random() ** 2)}",
            "item_id": f"i{int(25 * rng.random() ** 2)}",
            "rating": float(rng.choice([1, 2, 3, 4, 4.5, 5, 5, 5])),
            "title": rng.choice(["", "Fine", " Very\tGOOD ", "caf&eacute;"]),
            "text": " ".join(rng.choice(TEXTS) for _ in range(rng.randrange(1, 4))),
            "timestamp": DAY + dt.timedelta(days=rng.randrange(40), milliseconds=rng.choice([0, 0, 1])),
            "helpful_votes": votes and rng.choice([None, rng.randrange(votes + 1)]),
            "total_votes": votes,
            "verified": rng.choice([True, False, None]),
            "category": rng.choice(["Books", "Toys", "Ünïcode", None]),
        }
        # Some say the same again, under another id, or exactly.
        rows.append({**rows[-1], "review_id": f"R{i}"} if i % 17 == 5 else dict(rows[-1]) if i % 29 == 7 else row)
    return rows


def products() -> list[dict[str, Any]]:
    """Canonical products: repeated ones, prices of 0 and none, lists that name themselves, strangers, one twice."""
    rng = random.Random(4)
    rows = []
    for i in [*range(22), 3, 3, 21]:
        viewed = [f"i{rng.randrange(30)}" for _ in range(rng.randrange(6))] if i % 7 else None
        row = {
            "item_id": f"i{i}",
            "title": rng.choice([None, "", " \xa0 ", "Lamp "]),
            "brand": rng.choice(["b1", "b2", None]),
            "price": rng.choice([None, 0.0, 0.1, 9.99, 19.95, 1e9 / 3]),
            "category": rng.choice(["Lamps", None]),
            "sales_rank": rng.choice([None, 1, 2_000_000]),
            "also_viewed": viewed and [*viewed, viewed[0], f"i{i}"],
        }
        rows.append(row)
    return rows


def put_raw(store: SnapshotStore) -> Snapshot:
    """Commit the reviews in three files, with the hashes of their rows, as ingest does."""
    table = pa.Table.from_pylist(hard_reviews(), REVIEWS)
    parts = [table[:90], table[90:91], table[91:]]
    return put(store, "ingest", {"": parts, "keys": [row_hashes.of(part) for part in parts]})


def put_products(store: SnapshotStore) -> Snapshot:
    """Commit the products in two files, as ingest-items does."""
    table = pa.Table.from_pylist(products(), ITEMS)
    return put(store, "ingest-items", {"": [table[:10], table[10:]]})
