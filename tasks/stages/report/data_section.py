"""Compute the report's section on data: small tables and histograms of fixed size.

Only the needed columns are read, in batches, so memory does not grow with the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.snapshots import Snapshot
from tasks.domain.schemas import COUNTS_BY_RATING, LEFT_OUT

MAX_LENGTH = 100_000  # characters; longer texts count as this long
DAY_MS = 86_400_000
PRIOR_WORDS = 1000  # the weight of `telling_words`' prior, in words
ACTIVITY = ((1, "1"), (2, "2–4"), (5, "5–9"), (10, "10+"))  # reviews of a reviewer: lower bound and label
# Why clean removed a review, by the name of its count.
REPEATS = {
    "repeated_ids": "have the review_id of another",
    "duplicates": "say the same as another: user, item, stars, time and words",
    "repeated_pairs": "are by a user who reviewed the item again later",
}


@dataclass
class ReviewHistograms:
    """Numbers of rows by half star (1, 1.5 … 5), by text length in characters (0 … MAX_LENGTH), by day since 1970."""

    rows: int = 0
    half_stars: np.ndarray = field(default_factory=lambda: np.zeros(9, np.int64))
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(MAX_LENGTH + 1, np.int64))
    days: Counter[int] = field(default_factory=Counter)

    def length_quantile(self, q: float) -> int:
        return int(np.searchsorted(self.lengths.cumsum(), q * self.rows)) if self.rows else 0

    @property
    def stars(self) -> tuple[np.ndarray, np.ndarray]:
        """Return star values and the rows of each; half stars only if the data has any."""
        step = 1 if self.half_stars[1::2].any() else 2
        return np.arange(1, 5.5, 0.5)[::step], self.half_stars[::step]


def review_histograms(reviews: Snapshot) -> ReviewHistograms:
    """Count reviews in one pass over ratings, texts and timestamps."""
    seen = ReviewHistograms()
    for batch in batches(reviews, ["rating", "text", "timestamp"]):
        seen.rows += batch.num_rows
        halves = np.rint(batch["rating"].to_numpy(zero_copy_only=False) * 2).astype(np.int64) - 2
        seen.half_stars += np.bincount(halves.clip(0, 8), minlength=9)
        lengths = pc.utf8_length(batch["text"]).to_numpy(zero_copy_only=False)
        seen.lengths += np.bincount(np.minimum(lengths, MAX_LENGTH), minlength=MAX_LENGTH + 1)
        values, rows = np.unique(batch["timestamp"].cast(pa.int64()).to_numpy() // DAY_MS, return_counts=True)
        seen.days.update(dict(zip(values.tolist(), rows.tolist(), strict=True)))
    return seen


def activity(described: Snapshot) -> list[dict[str, Any]]:
    """Count reviewers by their number of reviews: label, reviewers, and all their reviews."""
    starts = np.array([start for start, _ in ACTIVITY])
    reviewers, reviews = np.zeros(len(starts), np.int64), np.zeros(len(starts), np.int64)
    for batch in batches(described, ["reviews"]):
        counts = batch["reviews"].to_numpy()
        rows = np.searchsorted(starts, counts, side="right") - 1
        reviewers += np.bincount(rows, minlength=len(starts))
        np.add.at(reviews, rows, counts)
    return [
        {"label": label, "reviewers": int(n), "reviews": int(all_of)}
        for (_, label), n, all_of in zip(ACTIVITY, reviewers, reviews, strict=True)
    ]


def repeats(reviews: Snapshot) -> tuple[int | None, list[tuple[str, int]]]:
    """Return the number of reviews that clean removed as repeats (None: unknown), and the number for each reason."""
    counts = reviews.manifest.counts
    by_reason = [(words, counts[name]) for name, words in REPEATS.items() if counts.get(name)]
    counted = [counts[name] for name in REPEATS if name in counts]
    return counts.get("repeated", sum(counted) if counted else None), by_reason


def quarantined(raw: Snapshot) -> list[dict[str, Any]]:
    """List the files that could not be read, or not to their end: source, reason and rows read, by name."""
    return [file for file in _set_aside(raw) if not file["reason"].startswith(LEFT_OUT)]


def left_out(raw: Snapshot) -> list[dict[str, Any]]:
    """List the other files in the input's folders, which are no damaged review files: source and reason, by name."""
    aside = [file for file in _set_aside(raw) if file["reason"].startswith(LEFT_OUT)]
    return [file | {"reason": file["reason"].removeprefix(LEFT_OUT)} for file in aside]


def _set_aside(raw: Snapshot) -> list[dict[str, Any]]:
    return sorted(read_rows(raw, "quarantine"), key=lambda file: (file["source"], file["reason"]))


def reject_reasons(raw: Snapshot) -> list[tuple[str, int]]:
    reasons: Counter[str] = Counter()
    for batch in batches(raw, ["reason"], "rejects"):
        reasons.update({v["values"]: v["counts"] for v in pc.value_counts(batch["reason"]).to_pylist()})
    return sorted(reasons.items(), key=lambda item: (-item[1], item[0]))


def top_words(counts: Snapshot, limit: int) -> dict[str, Any]:
    """List the most frequent tokens, without n-grams, and count the tokens: distinct, and in all."""
    top: list[dict[str, Any]] = []
    total = distinct = 0
    for table in _tokens(counts, ["count", "documents"], longest=1):
        distinct, total = distinct + table.num_rows, total + (pc.sum(table["count"]).as_py() or 0)
        order = pc.select_k_unstable(table, limit, [("count", "descending"), ("token", "ascending")])
        top = sorted(top + table.take(order).to_pylist(), key=lambda word: (-word["count"], word["token"]))
    return {"top": top[:limit], "total": total, "distinct": distinct}


def telling_words(counts: Snapshot, limit: int, min_documents: int = 10) -> list[tuple[Any, Any]]:
    """Find the tokens and n-grams that best distinguish reviews of 1-2 stars ("low") from 4-5 ("high"), by z-score.

    Returns pairs of a low and a high one; None where one side has no more. z is the difference of the token's log odds
    in both, over its standard deviation, with all tokens' counts as the prior: equation 16 and 22 of Monroe, Colaresi
    and Quinn, "Fightin' Words" (2008). Small counts do not win by chance.
    """
    kept = [
        t.filter(pc.greater_equal(t["documents"], min_documents))
        for t in _tokens(counts, ["documents", *COUNTS_BY_RATING])
    ]
    if not kept or not sum(t.num_rows for t in kept):
        return []
    words = pa.concat_tables(kept)
    stars = np.stack([words[name].to_numpy() for name in COUNTS_BY_RATING]).astype(np.float64)
    low, high = stars[:2].sum(axis=0), stars[3:].sum(axis=0)
    prior = stars.sum(axis=0) * (PRIOR_WORDS / stars.sum())

    def odds(count: np.ndarray) -> np.ndarray:
        with_prior = count + prior
        log_odds: np.ndarray = np.log(with_prior / (with_prior.sum() - with_prior + 1e-9))
        return log_odds

    z = (odds(high) - odds(low)) / np.sqrt(1 / (high + prior) + 1 / (low + prior))
    token = words["token"].to_pylist()
    order = sorted(range(len(token)), key=lambda i: (z[i], token[i]))

    def described(at: Sequence[int]) -> list[dict[str, Any]]:
        # A control character separates GPT-2 pieces.
        return [
            {"token": token[i].replace("\x1f", "·"), "z": float(z[i]), "low": int(low[i]), "high": int(high[i])}
            for i in at
        ]

    of_low, of_high = [i for i in order[:limit] if z[i] < 0], [i for i in order[::-1][:limit] if z[i] > 0]
    return list(zip_longest(described(of_low), described(of_high)))


def _tokens(counts: Snapshot, columns: Sequence[str], longest: int = 3) -> Iterator[pa.Table]:
    """Yield these columns of the word counts by file, of n-grams up to `longest`; no table is empty."""
    for file in counts.files():
        table = pq.ParquetFile(file).read(columns=["token", "n", *columns])
        table = table.filter(pc.less_equal(table["n"], longest))
        if table.num_rows:
            yield table


def read_rows(snapshot: Snapshot, table: str = "", columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Read a small table as dictionaries; no rows if the snapshot has no such table."""
    return snapshot.read(table, columns).to_pylist() if snapshot.files(table) else []


def batches(snapshot: Snapshot, columns: Sequence[str], table: str = "") -> Iterator[pa.RecordBatch]:
    for file in snapshot.files(table):
        yield from pq.ParquetFile(file).iter_batches(columns=list(columns))


def calendar(by_day: Mapping[int, int]) -> tuple[np.ndarray, np.ndarray, str]:
    """Bin rows by day, week or month, for 20 to 300 bins; returns edges (datetime64[D]), rows and the unit's name."""
    days = np.array(sorted(by_day))
    rows = np.array([by_day[day] for day in days.tolist()])
    span = days[-1] - days[0]
    code, unit = ("D", "day") if span < 120 else ("W", "week") if span < 1500 else ("M", "month")
    starts = days.astype("datetime64[D]").astype(f"datetime64[{code}]")
    edges = np.arange(starts[0], starts[-1] + 2)
    return edges.astype("datetime64[D]"), np.bincount((starts - starts[0]).astype(int), weights=rows), unit
