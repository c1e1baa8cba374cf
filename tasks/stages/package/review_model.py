"""A model that takes raw reviews: loaded from a package (`tasks.stages.package.stage`), in any process, without Ray.

    model = ReviewModel.load(folder)
    model.predict(frame)          # (n,) float32, or (n, classes)

A prediction depends on its own row and the package alone: not on other rows, on their order or on how they are cut into
batches. Features are computed by the functions of the stages that made the training features.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from tasks.algorithms.conformal import Intervals
from tasks.algorithms.hash_index import HashIndex
from tasks.core.errors import RunError, UserError
from tasks.core.part_files import read_part
from tasks.domain.metrics import expected
from tasks.domain.targets import target_of
from tasks.engines import boosting, tokenizer
from tasks.parallel.key_hash import hashed
from tasks.stages.clean.text import tidy_text
from tasks.stages.embeddings.review_vectors import SvdVectors, WordMeans
from tasks.stages.features.catalogue import KEYS, METADATA
from tasks.stages.features.columns import Columns, as_columns, epoch_ms
from tasks.stages.features.features import deep_features, own_features, past_features, text_features
from tasks.stages.features.group import Part, Words
from tasks.stages.features.past_state import PastState
from tasks.stages.features.text_fields import Reader
from tasks.stages.features.text_score import Model as TextModel
from tasks.stages.features.text_score import TextScore
from tasks.stages.language_model.chunks import chunks_of
from tasks.stages.language_model.ngrams import Known
from tasks.stages.language_model.scoring import Model as LanguageModel
from tasks.stages.language_model.scoring import read_known, score_chunk
from tasks.stages.package import layout
from tasks.stages.package.layout import About
from tasks.stages.package.raw_reviews import canonical
from tasks.stages.tokenize import token_ids

TOLERANCE = 1e-6
CHUNK_ROWS = 32_768  # scored at once: bounds the arrays in memory
KEYED = ("user_id", "item_id", "category")
Mask = NDArray[np.bool_]
Keys = tuple[NDArray[np.uint64], Mask]  # hashes (n,), and which of them are of a name


@dataclass
class ReviewModel:
    """A loaded package. Threads may share it; they tokenize one after the other."""

    folder: Path
    about: About
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def load(cls, folder: Path) -> ReviewModel:
        """Load a package into memory. Raises InputError if it is none of this version."""
        boosting.import_xgboost()
        about = About.parse((folder / layout.ABOUT).read_text(), str(folder))
        model = cls(folder, about)
        for part in ("booster", "names", "encode", *model._needed()):
            getattr(model, part)  # loads it
        return model

    def check(self) -> None:
        """Raise RunError if the package's example gets other predictions here than where it was made."""
        if not (file := self.folder / layout.EXAMPLE).exists():
            return
        example = read_part(file)
        found, right = expected(target_of(self.about.target), self.predict(example)), example["prediction"].to_numpy()
        if len(right) and (worst := float(np.abs(found - right).max())) > TOLERANCE:
            raise RunError(
                f"the model predicts otherwise here than where it was made, by up to {worst:.3g}",
                where=str(self.folder),
                fix="load it in a process of its own, with the libraries in its requirements.txt",
            )

    def predict(self, reviews: Any) -> NDArray[np.float32]:
        """Predict raw reviews (n rows of a pandas or Polars frame, an Arrow table or a list of dicts).

        Returns (n,) float32, or (n, classes) for a target of several classes. Raises InputError for columns that are
        missing or of the wrong type, naming them.
        """
        frame = canonical(reviews, self.about)
        pieces = [self.predict_clean(piece) for piece in frame.iter_slices(CHUNK_ROWS)]
        classes = target_of(self.about.target).classes
        empty = np.zeros((0, classes) if classes > 1 else 0, np.float32)
        return np.concatenate([empty, *pieces])

    def predict_clean(self, reviews: pl.DataFrame) -> NDArray[np.float32]:
        """Predict reviews in the columns that `canonical` returns."""
        return self.predict_features(self.features(reviews))

    def predict_features(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predict what `features` returned. Without a DMatrix: it takes longer than the trees of a single row."""
        prediction: NDArray[np.float32] = self.booster.inplace_predict(features)
        return prediction

    def contributions(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (n, features) SHAP values of what `features` returned; of several classes those of the likeliest."""
        import xgboost

        data = xgboost.DMatrix(features, feature_names=list(self.names), nthread=1)
        shares: NDArray[np.float32] = self.booster.predict(data, pred_contribs=True)
        if shares.ndim == 3:
            shares = shares[np.arange(len(shares)), shares.sum(axis=2).argmax(axis=1)]
        return shares[:, :-1]  # the last column is the bias

    def features(self, reviews: pl.DataFrame) -> NDArray[np.float32]:
        """Compute the features of reviews in the columns that `canonical` returns: (n, names), NaN where unknown."""
        columns = self.columns(reviews)
        return np.stack([columns[name] for name in self.names], axis=1)

    def columns(self, reviews: pl.DataFrame) -> Columns:
        """Compute the features by name, (n,) each."""
        groups = self.about.groups
        reviews = self._tidied(reviews)
        ms = epoch_ms(reviews["timestamp"])
        with self.lock:  # the tokenizer keeps what it has encoded
            ids = token_ids(reviews, self.encode, self.about.max_tokens)
        columns = self._past(reviews, ms) | own_features(Part(reviews, ids, self.words), groups)
        if "stars" in groups:
            columns |= as_columns({name: reviews[name] for name in groups["stars"]})
        if "text" in groups:
            columns |= text_features(self.text_score.score(ids, ms), self.about.target)
        if "language" in groups:
            columns |= self._language(ids)
        if "embeddings" in groups:
            columns |= as_columns(dict(zip(groups["embeddings"], self.vectors.of(ids).T, strict=True)))
        if "deep" in groups:
            columns |= deep_features(self.text_model.score(_rows(ids)), self.about.target)
        return columns

    def _tidied(self, reviews: pl.DataFrame) -> pl.DataFrame:
        """Clean the texts, all in one go, and let no review be older than the package can tell of."""
        rows = len(reviews)
        texts = tidy_text(pl.concat([reviews["title"], reviews["text"]]), self.about.clean)
        changed = {"title": texts[:rows], "text": texts[rows:]}
        ms = epoch_ms(reviews["timestamp"])
        if (ms < self.about.since).any():
            moved = pl.Series(np.maximum(ms, self.about.since))
            changed["timestamp"] = moved.cast(reviews.schema["timestamp"])
        # `with_columns` would take longer than the cleaning of a single review.
        return pl.DataFrame([changed.get(name, reviews[name]).alias(name) for name in reviews.columns])

    def _past(self, reviews: pl.DataFrame, ms: NDArray[np.int64]) -> Columns:
        user, item, category = np.split(hashed(pl.concat([reviews[name] for name in KEYED])), len(KEYED))
        some, every = reviews["category"].is_not_null().to_numpy(), np.ones(len(reviews), bool)
        keyed: dict[str, Keys] = {"user": (user, every), "item": (item, every), "category": (category, some)}
        columns: Columns = {}
        if self.items is not None:
            columns, of_item = self.items.of(item)
            theirs, known = of_item["category"]
            keyed["category"] = np.where(some, category, theirs), some | known
            keyed["brand"] = of_item["brand"]
        for kind, names in self.about.past.items():
            keys, there = keyed[kind]
            columns |= past_features(self.past[kind].known(keys, ms, there), kind, names)
        return columns

    def _language(self, ids: pa.ListArray) -> Columns:
        period, high = np.ones(len(ids), np.int64), np.zeros(len(ids), np.int64)
        model, known = self.language
        scores = [score_chunk(chunk, model, known) for chunk in chunks_of(ids, period, high)]
        surprise, high_stars = np.concatenate([np.zeros((2, 0)), *scores], axis=1)
        return as_columns({"lm_surprise": surprise, "lm_high": high_stars})

    def _needed(self) -> list[str]:
        parts = {"text": "text_score", "language": "language", "embeddings": "vectors", "deep": "text_model"}
        return ["words", "past", "items", *(part for group, part in parts.items() if group in self.about.groups)]

    @cached_property
    def booster(self) -> Any:
        booster = boosting.load_model((self.folder / layout.MODEL).read_bytes())
        booster.set_param({"nthread": 1})  # by default XGBoost wakes a thread per core for a single row
        return booster

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The features in the order of the trees."""
        return tuple(self.booster.feature_names)

    @cached_property
    def intervals(self) -> Intervals | None:
        """The intervals around predictions; None for a target without, and before the model is registered."""
        file = self.folder / layout.INTERVALS
        return Intervals(**json.loads(file.read_text())) if file.exists() else None

    @cached_property
    def encode(self) -> Any:
        return tokenizer.encoder((self.folder / layout.TOKENIZER).read_text())

    @cached_property
    def words(self) -> Words:
        tables = self._tables(layout.WORDS)
        empty = pl.DataFrame(schema={"token": pl.String, "ms": pl.Int64})
        return Words(pl.concat([empty, *tables]), self.about.splitting)

    @cached_property
    def past(self) -> dict[str, PastState]:
        tables = {kind: pl.concat(self._tables(layout.past_table(kind))) for kind in self.about.past}
        return {kind: PastState(table.sort("key", "ms")) for kind, table in tables.items()}

    @cached_property
    def items(self) -> Items | None:
        tables = self._tables(layout.ITEMS)
        return Items(pl.concat(tables)) if tables else None

    @cached_property
    def text_score(self) -> TextScore:
        with np.load(self.folder / layout.TEXT_SCORE, allow_pickle=False) as arrays:
            whole, title = (
                TextModel(arrays[f"{field}_idf"][None], arrays[f"{field}_weights"][None])
                for field in ("whole", "title")
            )
            newline = int(arrays["newline"])
            reader = Reader(arrays["folds"], None if newline < 0 else newline, whole.idf.shape[1])
            return TextScore(arrays["border"][None], reader, whole, title)

    @cached_property
    def language(self) -> tuple[LanguageModel, Known]:
        about = self.about.language
        assert about is not None, "the group language has a language model"
        files = sorted((self.folder / layout.NGRAMS).glob("*.parquet"))
        tokens = np.array([(0, 0), about.tokens])
        model = LanguageModel(np.array([self.about.since]), tokens, about.config)
        return model, read_known(files, about.config.min_count)

    @cached_property
    def vectors(self) -> SvdVectors | WordMeans:
        with np.load(self.folder / layout.VECTORS, allow_pickle=False) as arrays:
            if "basis" in arrays:
                return SvdVectors(arrays["idf"], arrays["basis"])
            return WordMeans(arrays["table"], arrays["known"])

    @cached_property
    def text_model(self) -> Any:
        try:
            from tasks.stages.text_model.model import Scorer
        except ImportError as error:
            raise UserError(
                f"this model reads texts by a transformer: {error}",
                where=str(self.folder),
                fix="install what is in its requirements.txt: torch and safetensors",
            ) from None
        return Scorer.load(self.folder)

    def _tables(self, name: str) -> list[pl.DataFrame]:
        return [read_part(file) for file in sorted((self.folder / name).glob("*.parquet"))]


class Items:
    """Products' metadata by hashed name: METADATA as features, and KEYS hashed."""

    def __init__(self, rows: pl.DataFrame) -> None:
        self.index = HashIndex(rows["key"].to_numpy().view(np.int64))
        # One more row, of what is unknown: an unknown product's place is -1.
        self.metadata = {name: np.append(as_columns({name: rows[name]})[name], np.float32(np.nan)) for name in METADATA}
        self.keys = {
            name: (np.append(hashed(rows[name]), np.uint64(0)), np.append(rows[name].is_not_null().to_numpy(), False))
            for name in KEYS
        }

    def of(self, items: NDArray[np.uint64]) -> tuple[Columns, dict[str, Keys]]:
        """Return METADATA of hashed items (n,), and by KEYS the hashes, with whether there is one."""
        place = self.index.find(items.view(np.int64))
        columns = {name: column[place] for name, column in self.metadata.items()}
        return columns, {name: (hashes[place], there[place]) for name, (hashes, there) in self.keys.items()}


def _rows(ids: pa.ListArray) -> list[NDArray[np.int32]]:
    values, offsets = ids.values.to_numpy(), ids.offsets.to_numpy()
    return [values[a:b] for a, b in pairwise(offsets.tolist())]
