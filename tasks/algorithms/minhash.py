"""Find near-duplicate texts by MinHash: shingles, signatures, band keys, exact similarity.

The similarity of two texts is the Jaccard similarity of their shingle sets: common shingles over all shingles. A
shingle is three consecutive words. A word is a run of letters, marks and digits in lower case. Scripts written without
spaces (Chinese, Japanese, Thai, ...) have no such runs: there every three consecutive characters, overlapping, are a
word, and a shingle is five characters. The rule applies to characters, not languages, so a text may mix scripts.

Two shingle sets have the same minimum hash with a probability equal to their similarity (Broder, 1997). A signature is
36 such minima under 36 hash functions. Each band of `rows` minima makes a key, and texts that share a key are
candidates. A pair of similarity s becomes one with probability 1 - (1 - s^rows)^bands (Leskovec, Rajaraman and Ullman,
Mining of Massive Datasets, section 3.4). One-permutation hashing (Li, Owen and Zhang, 2012) needs one hash instead of
36, but most texts here have fewer than 36 shingles: its bins would stay empty and the formula would not hold. The
computation is arithmetic on whole arrays, in one pass over the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.algorithms.splitmix import GOLDEN, mix

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

SHINGLE_WORDS = 3
HASHES = 36
RECALL = 0.99
CHUNK_CHARS = 1 << 17  # small enough for the processor's cache
COMPARED_AT_ONCE = 1 << 22  # shingles

WORDS = r"[\p{L}\p{M}\p{N}]"
UNSPACED = r"[\p{L}\p{M}&&[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]]"
UNSPACED_BIT = 1 << 20
PLANES = 4 << 16  # code points beyond the fourth plane are not letters


def banding(similarity: float) -> tuple[int, int]:
    """Choose the number of bands and the rows per band: the most rows with a recall of 0.99 at this similarity.

    For 0.8: 9 bands of 4 rows, with recall 0.991 at 0.8 and 0.99993 at 0.9; 0.0001 of the pairs at 0.06 are compared.
    """
    splits = [(HASHES // rows, rows) for rows in range(HASHES, 0, -1) if HASHES % rows == 0]
    return next((s for s in splits if recall(similarity, *s) >= RECALL), splits[-1])


def recall(similarity: float, bands: int, rows: int) -> float:
    """Return the probability that two texts of this similarity share a key."""
    return float(1 - (1 - similarity**rows) ** bands)


@dataclass(frozen=True)
class Shingled:
    """Texts as shingles. `text` (n,) int64: indices of the texts that are long enough. `shingles` (m,) uint64: their
    shingles in text order. `starts` (n + 1,): where each text's begin. `digest` (n,) uint64: of its words in order.

    Two of 10 million different texts share a digest with a probability of 3e-6.
    """

    text: I64
    starts: I64
    shingles: U64
    digest: U64


def shingle(texts: pa.ChunkedArray, min_words: int) -> Iterator[Shingled]:
    """Yield the shingles of texts with at least `min_words` words (and at least three), some texts at a time."""
    first = 0
    for chunk in texts.chunks:
        lengths = pc.utf8_length(chunk).to_numpy(zero_copy_only=False).astype(np.int64)
        ends = np.cumsum(lengths)
        start = 0
        while start < len(chunk):
            done = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + CHUNK_CHARS, side="right")))
            piece = _shingle(chunk.slice(start, stop - start), lengths[start:stop], max(min_words, SHINGLE_WORDS))
            yield Shingled(piece.text + (first + start), piece.starts, piece.shingles, piece.digest)
            start = stop
        first += len(chunk)


def _shingle(texts: pa.Array, lengths: I64, min_words: int) -> Shingled:
    characters = np.frombuffer(_utf8(texts).decode().encode("utf-32-le"), np.uint32)
    ends = np.cumsum(lengths)
    words, word_ends = _words(_fold(characters), ends)
    counts = np.diff(np.searchsorted(word_ends, ends, side="right"), prepend=0)
    text = np.flatnonzero(counts >= min_words)
    if not len(text):
        return Shingled(text, np.zeros(1, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.uint64))
    mixed = mix(words)
    base = np.uint64(GOLDEN)
    # Positions count: "a b c" is not "c b a".
    every = mix((mixed[:-2] * base + mixed[1:-1]) * base + mixed[2:])
    # Each word of a text but its last two begins a shingle.
    begins = (np.cumsum(counts) - counts)[text]
    sizes = counts[text] - (SHINGLE_WORDS - 1)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    shingles = every[np.repeat(begins - starts[:-1], sizes) + np.arange(starts[-1])]
    powers, inverses = _powers(len(shingles))
    sums = np.add.reduceat(shingles * powers[: len(shingles)], starts[:-1])
    return Shingled(text, starts, shingles, mix(sums * inverses[starts[:-1]] + sizes.astype(np.uint64)))


def _words(folded: NDArray[np.int32], text_ends: I64) -> tuple[U64, I64]:
    """Return hashes (w,) of all words in order, and the position after each word's last character (w,).

    Hashes are polynomials in a fixed odd base, modulo 2^64, from running sums over all characters (Karp and Rabin,
    1987).
    """
    # Words end at every text's end, and between a script with spaces and one without.
    inside = folded != 0
    broken = np.zeros(len(folded) + 1, dtype=bool)
    broken[0] = True
    broken[text_ends] = True
    unspaced = folded >= UNSPACED_BIT
    broken[1:-1] |= unspaced[1:] != unspaced[:-1]
    before = np.concatenate([[False], inside[:-1]])
    after = np.concatenate([inside[1:], [False]])
    begin = np.flatnonzero(inside & (broken[:-1] | ~before))
    end = np.flatnonzero(inside & (broken[1:] | ~after)) + 1
    if unspaced.any():
        begin, end = _characters(begin, end, unspaced)
    powers, inverses = _powers(len(folded))
    sums = np.zeros(len(folded) + 1, np.uint64)
    np.cumsum(folded.astype(np.uint64) * powers[: len(folded)], out=sums[1:])
    return (sums[end] - sums[begin]) * inverses[begin], end


def _characters(begin: I64, end: I64, unspaced: NDArray[np.bool_]) -> tuple[I64, I64]:
    """Replace each run in a script without spaces by all its three-character windows (a shorter run stays whole)."""
    count = np.where(unspaced[begin], np.maximum(end - begin - 2, 1), 1)
    step = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    begins = np.repeat(begin, count) + step
    ends = np.repeat(end, count)
    return begins, np.where(np.repeat(count, count) > 1, begins + 3, ends)


def _fold(characters: NDArray[np.uint32]) -> NDArray[np.int32]:
    table = _folds()
    return table[characters] if characters.max(initial=0) < PLANES else table[np.minimum(characters, PLANES - 1)]


@lru_cache(maxsize=1)
def _folds() -> NDArray[np.int32]:
    """Map each code point to 0 if no word holds it, else to its lower case, with UNSPACED_BIT for unspaced scripts.

    It uses Polars' Unicode tables: a stage's key includes the version of Polars, but not of Python.
    """
    points = np.array([c for c in range(PLANES) if not 0xD800 <= c <= 0xDFFF], np.int32)
    series = pl.Series([chr(c) for c in points.tolist()])
    lower = series.str.to_lowercase()
    # A few capitals whose lower case is two characters stay unchanged.
    single = (lower.str.len_chars() == 1).to_numpy()
    mapped = np.where(single, _first_points(lower), points)
    mapped = np.where(series.str.contains(WORDS).to_numpy(), mapped, 0)
    mapped |= np.where(series.str.contains(UNSPACED).to_numpy(), UNSPACED_BIT, 0).astype(np.int32)
    table = np.zeros(PLANES, np.int32)
    table[points] = mapped
    return table


def _first_points(texts: pl.Series) -> NDArray[np.int32]:
    return np.frombuffer("".join(texts.str.head(1).to_list()).encode("utf-32-le"), np.int32)


def _utf8(texts: pa.Array) -> bytes:
    """Return the bytes of a string array, concatenated."""
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    data = texts.buffers()[2]
    return bytes(memoryview(data)[offsets[0] : offsets[-1]]) if data is not None else b""


def _powers(count: int) -> tuple[U64, U64]:
    """Return at least `count` powers of the base, and of its inverse modulo 2^64."""
    return _power_tables(1 << max(CHUNK_CHARS.bit_length(), count.bit_length()))


@lru_cache(maxsize=1)
def _power_tables(count: int) -> tuple[U64, U64]:
    tables = []
    for base in (GOLDEN, pow(GOLDEN, -1, 1 << 64)):
        table = np.full(count, base, np.uint64)
        table[0] = 1
        tables.append(np.cumprod(table, dtype=np.uint64))
    return tables[0], tables[1]


def band_keys(texts: Shingled, bands: int, rows: int) -> U64:
    """Return the keys (n, bands) of n texts. Keys of different bands collide by chance only."""
    keys = np.empty((len(texts.text), bands), np.uint64)
    if not len(texts.text):
        return keys
    rng = np.random.Generator(np.random.PCG64(20))
    masks = rng.integers(0, 1 << 32, HASHES, dtype=np.uint32)
    factors = rng.integers(0, 1 << 32, HASHES, dtype=np.uint32) | np.uint32(1)
    hashes = (texts.shingles >> np.uint64(32)).astype(np.uint32)
    permuted = np.empty_like(hashes)
    for band in range(bands):
        key = np.full(len(texts.text), band + 1, np.uint64)
        for k in range(band * rows, band * rows + rows):
            # Multiplying by an odd number permutes the 32-bit numbers; the mask keeps 0 from always being the minimum.
            np.bitwise_xor(hashes, masks[k], out=permuted)
            np.multiply(permuted, factors[k], out=permuted)
            key = mix(key * np.uint64(GOLDEN) + np.minimum.reduceat(permuted, texts.starts[:-1]))
        keys[:, band] = key
    return keys


def shingle_sets(texts: Shingled) -> tuple[I64, U64]:
    """Return each text's distinct shingles in ascending order: starts (n + 1,) and values."""
    owner = np.repeat(np.arange(len(texts.text)), np.diff(texts.starts))
    order = np.lexsort((texts.shingles, owner))
    owner, values = owner[order], texts.shingles[order]
    new = np.ones(len(values), dtype=bool)
    new[1:] = (values[1:] != values[:-1]) | (owner[1:] != owner[:-1])
    starts = np.searchsorted(owner[new], np.arange(len(texts.text) + 1))
    return starts, values[new]


def jaccard(starts: I64, values: I64, left: I64, right: I64) -> NDArray[np.float64]:
    """Return the exact similarity (p,) of the pairs of sets `left` and `right` (p,).

    Set i is values[starts[i]:starts[i + 1]], ascending and distinct: shingles numbered from 0 (`np.unique`'s inverse).
    Time and memory are linear in the sizes of the sets compared; working in slices of the pairs bounds the memory.
    """
    from scipy.sparse import csr_array

    # One row per set, one column per shingle: scipy's product merges two sorted rows.
    shape = (len(starts) - 1, int(values.max(initial=0)) + 1)
    sets = csr_array((np.ones(len(values), np.int8), values, starts), shape=shape)
    sizes = np.diff(starts)
    work = np.cumsum(sizes[left] + sizes[right])
    common = np.zeros(len(left), np.int64)
    start = 0
    while start < len(left):
        done = work[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(work, done + COMPARED_AT_ONCE, side="right")))
        both = sets[left[start:stop]].multiply(sets[right[start:stop]])
        common[start:stop] = np.diff(both.indptr)
        start = stop
    return np.asarray(common / (sizes[left] + sizes[right] - common), np.float64)
