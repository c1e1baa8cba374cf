"""Group `shape`: the form of a review: lengths, punctuation, capitals, and how new its words are."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.algorithms import pretokens
from tasks.stages.count_words import CHUNK_BYTES, splitter, title_and_text
from tasks.stages.features.group import Group, Part, Words
from tasks.stages.features.text_shape import TEXT_SHAPE, shape


def _shape(part: Part) -> pl.DataFrame:
    frames = [shape(part.reviews["text"]), title_shape(part.reviews), word_shares(part.reviews, part.words)]
    return pl.concat(frames, how="horizontal").with_columns(n_tokens=token_counts(part.tokens))


def title_shape(reviews: pl.DataFrame) -> pl.DataFrame:
    return shape(reviews["title"]).select(
        title_chars="n_chars", title_exclamations="exclamations", title_capitals="capitals"
    )


def word_shares(reviews: pl.DataFrame, words: Words) -> pl.DataFrame:
    """Return the shares of each review's words that no earlier review has, and of its distinct words.

    Both are 0 for a review without words.
    """
    texts, split = title_and_text(reviews), splitter(words.splitting)
    times = reviews["timestamp"].dt.epoch("ms").to_numpy()
    new, unique = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    for rows in pretokens.chunks(texts, CHUNK_BYTES):
        cut = split(texts[rows])
        coded = cut.text.dictionary_encode()
        distinct = pl.DataFrame({"token": pl.Series(coded.dictionary).cast(pl.String)})
        # A word is looked up once, however often it occurs. One that is not there is new.
        found = distinct.join(words.first_seen, on="token", how="left", maintain_order="left")
        first, word = found["ms"].fill_null(1 << 62), coded.indices.to_numpy()
        row = np.repeat(np.arange(len(cut.counts)), cut.counts)
        size = cut.counts.clip(1)
        new.append(np.bincount(row, first.to_numpy()[word] >= times[rows][row], len(cut.counts)) / size)
        pairs = np.sort(row * len(distinct) + word)  # a hundred times as fast as np.unique, which hashes
        once = pairs[np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]]
        unique.append(np.bincount(once // max(len(distinct), 1), minlength=len(cut.counts)) / size)
    shares = {"new_words": np.concatenate(new), "unique_words": np.concatenate(unique)}
    return pl.DataFrame(shares, schema=dict.fromkeys(shares, pl.Float32))


def token_counts(ids: pa.ListArray) -> pl.Series:
    return pl.Series(np.diff(ids.offsets.to_numpy()), dtype=pl.Float32)


SHAPE = Group(
    name="shape",
    says="lengths, punctuation, capitals, words",
    columns={
        **TEXT_SHAPE,
        "title_chars": "characters of the title",
        "title_exclamations": "exclamation marks per 100 characters of the title",
        "title_capitals": "share of capitals among the title's letters",
        "n_tokens": "tokens of title and text",
        "new_words": "share of words that no earlier review has",
        "unique_words": "distinct words, as a share of all words",
    },
    of_part=_shape,
)
