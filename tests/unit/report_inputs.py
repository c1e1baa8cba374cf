"""Inputs of the report: small snapshots of every stage before it, and the page that comes out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.core.schemas import QUARANTINE, REJECTS, REVIEWS, WORD_COUNTS
from tasks.core.settings import ReportConfig
from tasks.core.snapshots import Snapshot, part_name
from tasks.core.store import SnapshotStore
from tasks.describe import RATINGS, REVIEWERS, by_user, partial_ratings, ratings_table
from tasks.report import report

START = datetime(2012, 1, 1, tzinfo=UTC)

CURVE = pa.schema({"round": pa.int32(), "split": pa.string(), "rmse": pa.float64()})
TRIALS = pa.schema(
    {"trial": pa.int32(), "status": pa.string(), "rounds": pa.int32(), "best_round": pa.int32()}
    | {"valid_rmse": pa.float64(), "params": pa.string()}
)
TRIAL_CURVES = pa.schema({"trial": pa.int32(), "round": pa.int32(), "rmse": pa.float64()})
PREDICTIONS = pa.schema(
    {"review_id": pa.string(), "timestamp": pa.timestamp("ms", tz="UTC")}
    | {name: pa.float32() for name in ("rating", "baseline", "tuned")}
)
IMPORTANCE = pa.schema({"feature": pa.string(), "gain": pa.float64()})
SLICES = pa.schema(
    {"slice": pa.string(), "rows": pa.int64()} | {f"rmse_{m}": pa.float64() for m in ("mean", "baseline", "tuned")}
)


class Inputs:
    """Small snapshots of all stages before it, believable by default; each part can be replaced before `snapshots`."""

    def __init__(self, n_reviews: int = 300, n_trials: int = 5, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        n_test = max(n_reviews // 10, 10)
        stars = rng.choice([1.0, 2.0, 3.0, 4.0, 5.0], n_reviews, p=[0.07, 0.05, 0.09, 0.2, 0.59]).tolist()
        seconds = (np.sort(rng.beta(3, 1, n_reviews)) * 6 * 365 * 86400).tolist()
        self.n_reviews = n_reviews
        self.repeats = {"repeated": 2}
        self.reviews: list[dict[str, Any]] = [
            {
                "review_id": f"r{i}",
                "user_id": f"u{i * i % 97}",
                "item_id": f"i{i % 40}",
                "rating": stars[i],
                "title": "",
                "category": "Books",
            }
            | {"text": "x" * int(rng.lognormal(5.2, 1.1)), "timestamp": START + timedelta(seconds=seconds[i])}
            for i in range(n_reviews)
        ]
        self.rejects = [{"reason": "bad rating", "source": "a.csv", "row": i, "record": "{}"} for i in range(3)]
        self.quarantined: list[dict[str, Any]] = []
        self.near_duplicates: dict[str, int] | None = None
        self.words: list[dict[str, Any]] = [
            {"token": word, "n": 1, "count": 9 * n_reviews // i, "documents": int(0.9 * n_reviews / i**0.5)}
            | {f"rating_{stars}": n_reviews // i for stars in (1, 2, 3, 4)}
            | {"rating_5": 9 * n_reviews // i - 4 * (n_reviews // i), "first_seen": 0}
            for i, word in enumerate(["the", "and", "to", "great", "not", "my"], start=1)
        ]
        self.trials: list[dict[str, Any]] = []
        self.trial_curves: list[dict[str, Any]] = []
        for trial in range(n_trials):
            params = {"max_depth": int(rng.integers(3, 9)), "eta": 0.03 * 10 ** rng.random(), "subsample": rng.random()}
            params |= {"min_child_weight": 20 ** rng.random(), "lambda": 0.1 * 100 ** rng.random()}
            rounds, status = (20, "pruned") if trial % 3 == 2 else (120, "complete")
            curve = (0.62 + 0.05 * rng.random() + 0.9 * np.exp(-params["eta"] * 0.5 * np.arange(rounds))).tolist()
            self.trials.append(
                {"trial": trial, "status": status, "rounds": rounds, "best_round": rounds - 1}
                | {"valid_rmse": min(curve), "params": json.dumps(params)}
            )
            self.trial_curves += [{"trial": trial, "round": r, "rmse": rmse} for r, rmse in enumerate(curve)]
        predicted = [(true, true * 0.7 + 1.3 + rng.normal(0, 0.6), true * 0.75 + 1.1) for true in stars[-n_test:]]
        self.predictions: list[dict[str, Any]] = [
            {"review_id": f"t{i}", "timestamp": START, "rating": true, "baseline": untuned, "tuned": tuned}
            for i, (true, untuned, tuned) in enumerate(predicted)
        ]
        names = ["text_score", "user_mean_past", "item_mean_past", "exclamations"]
        self.importance: list[dict[str, Any]] = [{"feature": n, "gain": 900 / i**2} for i, n in enumerate(names, 1)]
        self.slices: list[dict[str, Any]] = [
            {"slice": name, "rows": rows, "rmse_mean": 1.2, "rmse_baseline": tuned * 1.05, "rmse_tuned": tuned}
            for name, rows, tuned in (("rating 1", 7, 1.42), ("rating 5", 59, 0.41), ("category Books", 88, 0.64))
        ]
        self.facts: dict[str, Any] = {"rows": n_test, "mae": {"mean": 0.9, "baseline": 0.45, "tuned": 0.44}}
        self.facts["rmse"] = {"mean": 1.2, "baseline": 0.66, "tuned": 0.64}
        self.borders = {"train_until": "2016-08-01T00:00:00+00:00", "valid_until": "2017-03-01T00:00:00+00:00"}

    def snapshots(self, root: Path) -> list[Snapshot]:
        """Commit all nine, in the order in which `report` takes them."""
        store = SnapshotStore(root)
        rows_in = len(self.reviews) + len(self.rejects) + self.repeats.get("repeated", 0)
        best = min((t for t in self.trials if t["rounds"]), key=lambda t: t["valid_rmse"])
        curve = [{"round": r, "split": s, "rmse": 0.6 + 0.6 * 0.9**r} for s in ("train", "valid") for r in range(100)]
        fitted = [{"round": r, "split": "train+valid", "rmse": 0.55 + 0.6 * 0.93**r} for r in range(120)]
        rows = {"train": 8 * self.n_reviews // 10, "valid": self.n_reviews // 10, "test": self.n_reviews // 10}
        tuned = json.loads(best["params"])
        found = {"best_trial": best["trial"], "best_rmse": best["valid_rmse"], "best_rounds": 120, "best_params": tuned}
        half = len(self.words) // 2
        raw = {"": [(self.reviews, REVIEWS)], "rejects": [(self.rejects, REJECTS)]}
        if self.quarantined:
            raw["quarantine"] = [(self.quarantined, QUARANTINE)]
        frame = pl.DataFrame(pl.from_arrow(pa.Table.from_pylist(self.reviews, REVIEWS)))
        users, ratings = by_user(frame), ratings_table([partial_ratings(frame)])
        described = {"": [(users.to_dicts(), REVIEWERS)], "ratings": [(ratings.to_pylist(), RATINGS)]}
        profile = {"reviews": len(frame), "reviewers": len(users), "items": frame["item_id"].n_unique()}
        profile |= {"first_year": users["first_year"].min(), "latest_year": users["latest_year"].max()}
        near = {"near_duplicates": self.near_duplicates} if self.near_duplicates else {}
        words = {"": [(self.words[:half], WORD_COUNTS), (self.words[half:], WORD_COUNTS)]}
        search = {"": [(self.trials, TRIALS)], "curves": [(self.trial_curves, TRIAL_CURVES)]}
        scores = {"": [(self.predictions, PREDICTIONS)], "importance": [(self.importance, IMPORTANCE)]}
        scores["slices"] = [(self.slices, SLICES)]
        return [
            commit(store, "ingest", raw, counts={"rows_in": rows_in}),
            commit(store, "clean", {"": raw[""]}, counts={"rows_in": rows_in, **self.repeats}),
            commit(store, "count-words", words),
            commit(store, "describe", described, facts=profile),
            commit(store, "split", {}, facts={"borders": self.borders, "rows": rows, **near}),
            commit(store, "train", {"": [(curve, CURVE)]}, facts={"rounds": 100, "params": {"eta": 0.1}}),
            commit(store, "tune", search, facts=found),
            commit(store, "refit", {"": [(fitted, CURVE)]}, facts={"rounds": 120, "params": tuned}),
            commit(store, "evaluate", scores, facts=self.facts),
        ]


Tables = Mapping[str, list[tuple[list[dict[str, Any]], pa.Schema]]]


def commit(store: SnapshotStore, stage: str, tables: Tables, *, counts: Any = None, facts: Any = None) -> Snapshot:
    out = store.open_attempt(stage, "k" * 32)
    for table, parts in tables.items():
        for index, (rows, schema) in enumerate(parts):
            out.write_table(part_name(index, table), pa.Table.from_pylist(rows, schema))
    out.counts, out.facts = counts or {}, facts or {}
    return publish(store, out)


def publish(store: SnapshotStore, out: Any) -> Snapshot:
    about: dict[str, Any] = {"inputs": (), "config": {}, "config_digest": "", "code": {}, "seconds": {}}
    return store.commit(out, **about, deterministic=True, committed_at="2020-01-01")


def make(inputs: Inputs, root: Path, title: str = "A report") -> Snapshot:
    """Run the stage on these inputs and commit what it wrote."""
    store = SnapshotStore(root)
    out = store.open_attempt("report", "r" * 32)
    report.function(*inputs.snapshots(root), config=ReportConfig(title=title), out=out)
    return publish(store, out)


def page_of(snapshot: Snapshot) -> str:
    return snapshot.path("report.html").read_text()


class Outline(HTMLParser):
    """What a browser would see: tags, each closed in its turn, ids, and what attributes load or link."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(page)
        self.ids = self.all("id")
        self.links = self.all("src", "href", "action", "data", "srcset")

    def all(self, *names: str) -> list[str]:
        return [value for name, value in self.attributes if name in names]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
