"""Measure the form of texts: lengths, punctuation, capitals, stretched words; and digests that find equal texts.

Counts run over the bytes of all texts at once, in chunks of `tasks.algorithms.pretokens`: each character class is one
look-up in a table of 256, each count the difference of two places in a sorted list of positions.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.algorithms import pretokens
from tasks.stages.features.columns import Columns, as_columns, stacked_columns

CHUNK_BYTES = 1 << 20  # processed at once, so that the arrays stay in the cache
UPPER, LOWER, DIGIT, BLANK, INSIDE = (1 << k for k in range(5))  # INSIDE: a byte of a character, but not its first
TEXT_SHAPE = {
    "n_chars": "characters of the text",
    "exclamations": "exclamation marks per 100 characters",
    "questions": "question marks per 100 characters",
    "capitals": "share of capitals among the letters A-Z, a-z",
    "digits": "digits per 100 characters",
    "word_chars": "average characters of a word, null without words",
    "shouted": "share of words with two capitals or more and no small letter",
    "stretched": "letters repeated three times or more in a row (sooo), per 100 words",
}


def _table() -> NDArray[np.uint8]:
    classes = np.zeros(256, np.uint8)
    for first, last, bit in (("A", "Z", UPPER), ("a", "z", LOWER), ("0", "9", DIGIT)):
        classes[ord(first) : ord(last) + 1] |= bit
    classes[[9, 10, 11, 12, 13, 32]] |= BLANK
    classes[0x80:0xC0] |= INSIDE
    return classes


CLASSES = _table()


def shape(texts: pl.Series) -> Columns:
    """Return the columns TEXT_SHAPE of n texts."""
    chunks = [_shape(texts[rows]) for rows in pretokens.chunks(texts, CHUNK_BYTES)]
    return stacked_columns(chunks, list(TEXT_SHAPE))


def _shape(texts: pl.Series) -> Columns:
    data, ends = pretokens.text_bytes(texts)
    classes = CLASSES[data]
    first_byte = np.zeros(len(data) + 1, bool)  # of a text; one extra place, where empty texts at the end begin
    first_byte[ends[:-1]] = True
    first_byte = first_byte[:-1]

    upper, lower, blank = (classes & UPPER) > 0, (classes & LOWER) > 0, (classes & BLANK) > 0
    uppers, lowers = up_to(upper), up_to(lower)
    capitals, small = np.diff(uppers[ends]), np.diff(lowers[ends])
    chars = np.diff(ends) - count(np.flatnonzero((classes & INSIDE) > 0), ends)

    begins = ~blank
    begins[1:] &= blank[:-1] | first_byte[1:]
    word = np.flatnonzero(begins)
    words = count(word, ends)
    until = np.append(word, len(data))  # only blanks are between a word and the next one
    shouted = (np.diff(uppers[until]) >= 2) & (np.diff(lowers[until]) == 0)

    same = (data[1:] == data[:-1]) & (upper | lower)[1:] & ~first_byte[1:]  # a letter equals the one to its left
    thrice = same[1:] & same[:-1]
    thrice[1:] &= ~thrice[:-1].copy()

    per_100, some_words = 100 / np.maximum(chars, 1), np.maximum(words, 1)
    letters = chars - np.diff(up_to(blank)[ends])
    return as_columns(
        {
            "n_chars": chars,
            "exclamations": count(np.flatnonzero(data == ord("!")), ends) * per_100,
            "questions": count(np.flatnonzero(data == ord("?")), ends) * per_100,
            "capitals": capitals / np.maximum(capitals + small, 1),
            "digits": count(np.flatnonzero((classes & DIGIT) > 0), ends) * per_100,
            "word_chars": np.where(words > 0, letters / some_words, np.nan),
            "shouted": count(word[shouted], ends) / some_words,
            "stretched": count(np.flatnonzero(thrice) + 2, ends) * 100 / some_words,
        }
    )


def up_to(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Count the true values before each place: (n + 1,), 0 first."""
    sums = np.zeros(len(mask) + 1, np.int32)
    np.cumsum(mask, out=sums[1:])
    return sums


def count(positions: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count how many of the ascending positions lie in each text."""
    return np.diff(np.searchsorted(positions, ends))


def text_digest(texts: pl.Series) -> pl.Series:
    """Return (n,) uint64 digests, equal for texts that differ only in letter case and white space; null for empty ones.

    Two of 10 million different texts share a digest with a probability of 3e-6. BLAKE2 gives the same on every machine,
    and is faster for texts of this length than arithmetic on whole columns.
    """
    normal = texts.str.to_lowercase().str.strip_chars()
    odd = normal.str.contains(r"\s\s|[^\S ]").arg_true()  # few after `clean`, and searching is ten times as fast
    normal = normal.scatter(odd, normal.gather(odd).str.replace_all(r"\s+", " "))
    digests = b"".join(blake2b(text.encode(), digest_size=8).digest() for text in normal)
    return pl.select(pl.when(normal != "").then(pl.Series(np.frombuffer(digests, "<u8")))).to_series()
