"""Small packages of models, made by the stages' own functions from made-up reviews, and a registry of them."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import xgboost as xgb
from tokenizers import Tokenizer, models, pre_tokenizers

from flows.serve.measures import Measures
from flows.serve.model import LoadedModel, Served
from flows.serve.shadow import DifferenceLog
from flows.serve.watch import Watch
from tasks.core.sections import ServeConfig
from tasks.domain.schemas import REVIEWS
from tasks.parallel.exchange import stacked
from tasks.settings import load_settings
from tasks.stages.features.groups import declared_groups
from tasks.stages.features.past_aggregates import cumulative, split_by_key
from tasks.stages.features.past_state import state_of
from tasks.stages.package import layout
from tasks.stages.package.layout import About
from tasks.stages.package.review_model import ReviewModel
from tasks.stages.package.stage import past_columns

NAME = "raymill-toys-rating"
GROUPS = ("user", "item", "shape", "context")
ROWS, DAY_MS = 300, 86_400_000
START_MS = 1_400_000_000_000
WORDS = ("good", "bad", "fine", "broke", "works", "love", "never", "again", "cheap", "solid")


def reviews(rows: int = ROWS, seed: int = 0) -> pl.DataFrame:
    """Reviews whose stars their words tell."""
    rng = np.random.default_rng(seed)
    stars = rng.integers(1, 6, rows).astype(np.float32)
    columns: dict[str, Any] = {
        "review_id": [f"R{i}" for i in range(rows)],
        "user_id": [f"U{i}" for i in rng.integers(0, 40, rows)],
        "item_id": [f"I{i}" for i in rng.integers(0, 20, rows)],
        "rating": stars,
        "title": [WORDS[int(s)] for s in stars],
        "text": [" ".join(rng.choice(WORDS, 3 + 4 * int(s))) + "!" * int(s) for s in stars],
        "timestamp": START_MS + np.sort(rng.integers(0, 300, rows)) * DAY_MS,
        "helpful_votes": [None] * rows,
        "total_votes": [None] * rows,
        "verified": rng.random(rows) < 0.5,
        "category": ["Toys"] * rows,
    }
    frame = pl.DataFrame(columns).with_columns(pl.col("timestamp").cast(pl.Datetime("ms", "UTC")))
    return pl.DataFrame(pl.from_arrow(frame.select(REVIEWS.names).to_arrow().cast(REVIEWS)))


@cache
def packages() -> dict[str, Path]:
    """Two versions that predict otherwise, made once in a test run."""
    root = Path(mkdtemp(prefix="raymill-served-"))
    return {version: write_package(root / version, rounds) for version, rounds in (("1", 4), ("2", 20))}


def write_package(folder: Path, rounds: int) -> Path:
    known = reviews()
    groups = {name: list(declared_groups()[name].columns) for name in GROUPS}
    groups["shape"] = ["n_chars", *(name for name in groups["shape"] if name != "n_chars")]
    past = past_columns(groups)
    for kind in past:
        sums = stacked(split_by_key(known.to_arrow().cast(REVIEWS), 1, f"{kind}_id"))
        (folder / layout.past_table(kind)).mkdir(parents=True)
        pq.write_table(state_of(cumulative(sums), START_MS), folder / layout.past_table(kind) / "part-00000.parquet")
    (folder / layout.WORDS).mkdir()
    words = pl.DataFrame({"token": WORDS, "ms": [START_MS] * len(WORDS)})
    words.write_parquet(folder / layout.WORDS / "part-00000.parquet")
    vocabulary = {word: i for i, word in enumerate(("?", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    (folder / layout.TOKENIZER).write_text(tokenizer.to_str())
    about = About(
        target="rating",
        features=[name for of_group in groups.values() for name in of_group],
        groups=groups,
        past=past,
        since=START_MS,
        until=START_MS + 300 * DAY_MS,
        clean=load_settings().clean,
        splitting="words",
        max_tokens=None,
        language=None,
        reviews=len(known),
    )
    (folder / layout.ABOUT).write_text(about.model_dump_json())
    features = ReviewModel(folder, about).columns(known)
    names = about.features
    data = xgb.DMatrix(
        np.stack([features[name] for name in names], axis=1), known["rating"].to_numpy(), feature_names=names
    )
    booster = xgb.train({"max_depth": 3, "nthread": 1, "seed": 7}, data, rounds)
    (folder / layout.MODEL).write_bytes(booster.save_raw("ubj"))
    example = known.head(5)
    predictions = ReviewModel.load(folder).predict_clean(example)
    example.with_columns(prediction=pl.Series(predictions)).write_parquet(folder / layout.EXAMPLE)
    return folder


class Shelf:
    """A registry in memory: aliases that tests move, versions on disk, and an error to raise instead of answering."""

    def __init__(self, **aliases: str) -> None:
        self.aliases = aliases
        self.down: Exception | None = None
        self.folders = dict(packages())
        self.loads: list[str] = []

    def version(self, wanted: str) -> str | None:
        if self.down:
            raise self.down
        return wanted if wanted.isdigit() else self.aliases.get(wanted)

    def load(self, version: str) -> LoadedModel:
        self.loads.append(version)
        return LoadedModel.load(NAME, version, self.folders[version])

    def note(self, wanted: str, version: str) -> None:
        self.noted = (wanted, version)


def config(**given: Any) -> ServeConfig:
    """The settings of `serve`, with some of them changed."""
    return load_settings(serve=given).serve


def watched(shelf: Shelf, folder: Path, **given: Any) -> Watch:
    """A watch that polls when it is told to, on a served champion."""
    served = Served(shelf.load(shelf.aliases["champion"]), measures := Measures())
    measures.serves(NAME, served.champion.version)
    watch = Watch(shelf, config(**given), "champion", served, lambda _: DifferenceLog(folder / "shadow.jsonl", 4_000))
    watch.poll()
    return watch


def request(**given: Any) -> dict[str, Any]:
    """A review as a client sends it."""
    return {"user_id": "U1", "item_id": "I1", "text": "good works!", "timestamp": "2015-02-01"} | given


def register_all(uri: str, root: Path) -> Any:
    """Register the packages in MLflow as versions 1 and 2, the first as champion; returns the client."""
    from tasks.engines import registry, tracking

    client = tracking.connect(uri)
    client.create_registered_model(NAME)
    for version, folder in packages().items():
        shutil.copytree(folder, root / version / "artifacts" / "package")
        client.create_model_version(NAME, (root / version).as_uri(), tags={f"{registry.DIGEST}package": version})
    client.set_registered_model_alias(NAME, "champion", "1")
    return client
