"""Inputs of the report: small snapshots of every stage before it, and the page that comes out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.core.snapshot_files import part_name
from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.domain.schemas import QUARANTINE, REJECTS, REVIEWS, WORD_COUNTS
from tasks.domain.targets import TARGETS, Target
from tasks.engines import plots
from tasks.stages.describe import RATINGS, REVIEWERS, by_user, partial_ratings, ratings_table
from tasks.stages.evaluate.slices import SLICES
from tasks.stages.evaluate.stage import CALIBRATION, IMPORTANCE, WORST
from tasks.stages.report import model_plots
from tasks.stages.report.stage import ReportConfig, report

START = datetime(2012, 1, 1, tzinfo=UTC)

CURVE = pa.schema({"round": pa.int32(), "split": pa.string(), "loss": pa.float64()})
TRIALS = pa.schema(
    {"trial": pa.int32(), "status": pa.string(), "rounds": pa.int32(), "best_round": pa.int32()}
    | {"valid_loss": pa.float64(), "params": pa.string(), "train_rows": pa.int64()}
)
TRIAL_CURVES = pa.schema({"trial": pa.int32(), "round": pa.int32(), "loss": pa.float64()})
PREDICTIONS = {
    "review_id": pa.string(),
    "timestamp": pa.timestamp("ms", tz="UTC"),
    **dict.fromkeys(("rating", "label", "baseline", "tuned"), pa.float32()),
}


class Inputs:
    """Small snapshots of all stages before it, believable by default; each part can be replaced before `snapshots`."""

    def __init__(self, n_reviews: int = 300, n_trials: int = 5, seed: int = 0, target: str = "rating") -> None:
        self.target = TARGETS[target]
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
                | {"valid_loss": min(curve), "params": json.dumps(params), "train_rows": 800}
            )
            self.trial_curves += [{"trial": trial, "round": r, "loss": loss} for r, loss in enumerate(curve)]
        self.predictions = predictions(self.target, np.array(stars[-n_test:]), rng)
        names = ["text_score", "user_mean_past", "item_mean_past", "exclamations"]
        self.importance: list[dict[str, Any]] = [
            {"feature": n, "gain": 900 / i**2, "shap": 0.4 / i} for i, n in enumerate(names, 1)
        ]
        self.slices: list[dict[str, Any]] = [
            {"slice": name, "rows": rows, "loss_mean": 1.2, "loss_linear": 0.7, "loss_baseline": tuned * 1.05}
            | {"loss_tuned": tuned, "ratio": tuned / 0.64, "warning": name == "stars 1"}
            for name, rows, tuned in (("stars 1", 70, 1.42), ("stars 5", 59, 0.41), ("category Books", 88, 0.64))
        ]
        self.worst: list[dict[str, Any]] = [
            {"review_id": f"t{i}", "category": "Books", "title": f"worst {i}", "text": "as bad as it gets"}
            | {
                "timestamp": START,
                "rating": 1.0,
                "label": float(self.target.classes == 1),
                "prediction": 4.2,
                "loss": 9.0,
            }
            for i in range(25)
        ]
        values = {"mean": 1.2, "linear": 0.7, "baseline": 0.66, "tuned": 0.64}
        self.measures: dict[str, Any] = {
            model: {m: {"value": v, "low": v - 0.03, "high": v + 0.02} for m in self.target.measures}
            for model, v in values.items()
        }
        self.calibration: list[dict[str, Any]] = [
            {"model": m, "bin": i, "rows": 3, "prediction": i / 10, "label": i / 11, "low": i / 12, "high": i / 10}
            for m in ("baseline", "tuned")
            for i in range(10)
        ]
        self.rows = n_test
        borders = {"train_until": "2016-08-01T00:00:00+00:00", "valid_until": "2017-03-01T00:00:00+00:00"}
        rows = {"train": 8 * n_reviews // 10, "valid": n_reviews // 10, "test": n_reviews // 10}
        self.split: dict[str, Any] = {"borders": borders, "rows": rows}

    def snapshots(self, root: Path) -> list[Snapshot]:
        """Commit all nine, in the order in which `report` takes them."""
        store = SnapshotStore(root)
        rows_in = len(self.reviews) + len(self.rejects) + self.repeats.get("repeated", 0)
        best = min((t for t in self.trials if t["rounds"]), key=lambda t: t["valid_loss"])
        curve = [{"round": r, "split": s, "loss": 0.6 + 0.6 * 0.9**r} for s in ("train", "valid") for r in range(100)]
        fitted = [{"round": r, "split": "train+valid", "loss": 0.55 + 0.6 * 0.93**r} for r in range(120)]
        tuned = json.loads(best["params"])
        found = {"best_trial": best["trial"], "best_loss": best["valid_loss"], "best_rounds": 120, "best_params": tuned}
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
        several = {f"tuned_{i}": pa.float32() for i in range(1, 6)} if self.target.classes > 1 else {}
        scores = {"": [(self.predictions, pa.schema({**PREDICTIONS, **several}))]}
        scores |= {"importance": [(self.importance, IMPORTANCE)], "slices": [(self.slices, SLICES)]}
        scores |= {"worst": [(self.worst, WORST)], "calibration": [(self.calibration, CALIBRATION)]}
        facts = {"rows": self.rows, "target": self.target.name, "metric": self.target.metric}
        facts |= {"measures": self.measures, "calibration_error": {"tuned": 0.012, "baseline": 0.034}}
        return [
            commit(store, "ingest", raw, counts={"rows_in": rows_in}),
            commit(store, "clean", {"": raw[""]}, counts={"rows_in": rows_in, **self.repeats}),
            commit(store, "count-words", words),
            commit(store, "describe", described, facts=profile),
            commit(store, "split", {}, facts={**self.split, **near}),
            commit(store, "train", {"": [(curve, CURVE)]}, facts={"rounds": 100, "params": {"eta": 0.1}}),
            commit(store, "tune", search, facts=found),
            commit(store, "refit", {"": [(fitted, CURVE)]}, facts={"rounds": 120, "params": tuned}),
            commit(store, "evaluate", scores, facts=facts),
        ]


def predictions(target: Target, stars: np.ndarray, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Of a model that knows something, for true stars."""
    guess = (stars * 0.7 + 1.3 + rng.normal(0, 0.6, len(stars))).clip(1, 5)
    if target.classes > 1:
        shares = np.exp(-np.square(guess[:, None] - np.arange(1, 6)))
        shares /= shares.sum(axis=1, keepdims=True)
        columns = {f"tuned_{i + 1}": shares[:, i] for i in range(5)}
        columns |= {"label": stars - 1, "tuned": shares @ np.arange(1, 6), "baseline": guess}
    elif target.name == "rating":
        columns = {"label": stars, "tuned": guess, "baseline": stars * 0.75 + 1.1}
    else:
        columns = {"label": np.where(stars >= 4, 1.0, 0.0), "tuned": (guess - 1) / 4, "baseline": (guess - 0.5) / 5}
    return [
        {"review_id": f"t{i}", "timestamp": START, "rating": stars[i], **{k: float(v[i]) for k, v in columns.items()}}
        for i in range(len(stars))
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


def make(inputs: Inputs, root: Path, title: str = "A report", *, drawn: bool = True) -> Snapshot:
    """Run the stage on these inputs and commit what it wrote.

    drawn: with its plots, which take nearly all of the time.
    """
    store = SnapshotStore(root)
    out = store.open_attempt("report", "r" * 32)
    with ExitStack() as stack:
        for module in () if drawn else (plots, model_plots):
            stack.enter_context(patch.object(module, "png", lambda draw, size: b"\x89PNG"))
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
