"""Group `shape`: the form of a review: lengths, punctuation, capitals, and how new its words are."""

from __future__ import annotations

import numpy as np
import polars as pl

from tasks.algorithms import pretokens
from tasks.stages.count_words import CHUNK_BYTES, splitter, title_and_text
from tasks.stages.features.columns import Columns, as_columns, epoch_ms
from tasks.stages.features.group import Group, Part, Words
from tasks.stages.features.text_shape import TEXT_SHAPE, shape

TITLE_SHAPE = {"title_chars": "n_chars", "title_exclamations": "exclamations", "title_capitals": "capitals"}


def _shape(part: Part) -> Columns:
    n_tokens = as_columns({"n_tokens": np.diff(part.tokens.offsets.to_numpy())})
    return shape_of_both(part.reviews) | word_shares(part.reviews, part.words) | n_tokens


def shape_of_both(reviews: pl.DataFrame) -> Columns:
    """Return TEXT_SHAPE of the texts and TITLE_SHAPE of the titles, measured in one go."""
    rows = len(reviews)
    both = shape(pl.concat([reviews["text"], reviews["title"]]))
    of_title = {name: both[of][rows:] for name, of in TITLE_SHAPE.items()}
    return {name: column[:rows] for name, column in both.items()} | of_title


def word_shares(reviews: pl.DataFrame, words: Words) -> Columns:
    """Return the shares of each review's words that no earlier review has, and of its distinct words.

    Both are 0 for a review without words.
    """
    texts, split = title_and_text(reviews), splitter(words.splitting)
    times = epoch_ms(reviews["timestamp"])
    new, unique = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    for rows in pretokens.chunks(texts, CHUNK_BYTES):
        cut = split(texts[rows])
        coded = cut.text.dictionary_encode()
        # A word is looked up once, however often it occurs. One that is not there is new.
        distinct = len(coded.dictionary)
        first, word = words.seen(coded.dictionary), coded.indices.to_numpy()
        row = np.repeat(np.arange(len(cut.counts)), cut.counts)
        size = cut.counts.clip(1)
        new.append(np.bincount(row, first[word] >= times[rows][row], len(cut.counts)) / size)
        pairs = np.sort(row * distinct + word)  # a hundred times as fast as np.unique, which hashes
        once = pairs[np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]]
        unique.append(np.bincount(once // max(distinct, 1), minlength=len(cut.counts)) / size)
    return as_columns({"new_words": np.concatenate(new), "unique_words": np.concatenate(unique)})


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
