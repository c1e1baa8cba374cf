"""Cut texts into pieces by the classes of their characters: into GPT-2's pre-tokens or into words.

A regular expression examines one character at a time; here each rule compares whole arrays of UTF-8 bytes. Pieces are
offsets into the texts' own bytes: no text is copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Positions = NDArray[np.int64]

LETTER, NUMBER, OTHER, BLANK = range(4)
GPT2_CLASSES = (r"^\p{L}$", r"^\p{N}$", r"^[^\s\p{L}\p{N}]$", r"^\s$")
GAP, WORD, QUOTE = range(3)
WORD_CLASSES = (r"^[^\w'’]$", r"^\w$", "^['’]$")
SPACE, APOSTROPHE = ord(" "), ord("'")
UNKNOWN = 255


class Classes:
    """The class of every Unicode character: the index of the pattern in `patterns` that it matches.

    Polars' regular expressions classify each character once, when it first occurs, so all classes come from one version
    of Unicode.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = patterns
        self.table = np.full(0x110000, UNKNOWN, dtype=np.uint8)
        self._learn(np.arange(0x80))

    def of_bytes(self, data: Bytes) -> tuple[NDArray[np.uint8], Positions, Positions]:
        """Return the class of each byte's character, and where multi-byte characters begin and end (last byte)."""
        classes = np.frombuffer(bytearray(data).translate(self.table[:256].tobytes()), dtype=np.uint8)
        far = np.flatnonzero(data >= 0xC0)
        if not len(far):
            return classes, far, far
        lead = data[far]
        size = 2 + (lead >= 0xE0) + (lead >= 0xF0).astype(np.int64)
        code = (lead & (0x7F >> size)).astype(np.int64)
        for k in range(1, 4):
            longer = size > k
            code[longer] = code[longer] << 6 | data[far[longer] + k] & 0x3F
        class_of = self.table[code]
        if (class_of == UNKNOWN).any():
            self._learn(np.unique(code[class_of == UNKNOWN]))
            class_of = self.table[code]
        for k in range(4):
            longer = size > k
            classes[far[longer] + k] = class_of[longer]
        return classes, far, far + size - 1

    def _learn(self, codes: Positions) -> None:
        characters = pl.Series([chr(c) for c in codes.tolist()])
        for index, pattern in enumerate(self.patterns):
            self.table[codes[characters.str.contains(pattern).to_numpy()]] = index


@dataclass(frozen=True)
class Pieces:
    """Pieces of n texts, in order. text: (pieces,) strings. counts: (n,) pieces per text."""

    text: pa.LargeStringArray
    counts: Positions


def chunks(texts: pl.Series, size: int) -> Iterator[slice]:
    """Yield slices of consecutive rows with at most `size` bytes each; a longer text is a slice of its own."""
    if len(texts) == 1:  # a review that is scored alone
        yield slice(0, 1)
        return
    ends = np.cumsum(texts.str.len_bytes().to_numpy(), dtype=np.int64)
    start, done = 0, 0
    while start < len(ends):
        end = max(start + 1, int(np.searchsorted(ends, done + size, side="right")))
        yield slice(start, end)
        start, done = end, int(ends[end - 1])


def text_bytes(texts: pl.Series) -> tuple[Bytes, Positions]:
    """Return the UTF-8 bytes of all texts, concatenated, and the n + 1 offsets of the texts in them."""
    array = texts.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    buffer = np.frombuffer(data, dtype=np.uint8) if data is not None else np.zeros(0, dtype=np.uint8)
    return buffer[ends[0] : ends[-1]], ends - ends[0]


def gpt2_pieces(texts: pl.Series, classes: Classes) -> Pieces:
    r"""Cut texts into GPT-2's pre-tokens: `'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.

    It computes where the expression, matched from left to right, begins a piece. A character that is not blank begins a
    piece unless its left neighbour has the same class or is a space, which then begins the piece. A run of blanks
    begins a piece, and so does the run's last blank if more of the same text follows. If an apostrophe begins a piece
    and s, t, m, d, re, ve or ll follows, the piece ends after those letters.
    Source: the pattern in OpenAI's gpt-2/src/encoder.py.
    """
    data, ends = text_bytes(texts)
    class_of, lead, last = classes.of_bytes(data)
    begins = _runs_and_spaces(data, class_of, ends, lead, last)
    _cut_contractions(data, class_of, ends, begins)
    return _pieces(data, ends, np.flatnonzero(begins))


def words(texts: pl.Series, classes: Classes) -> Pieces:
    r"""Cut texts into words, `\w+(?:['’]\w+)*`, in their own case.

    A word is a run of letters, marks, digits and joining punctuation such as the underscore (Unicode Technical Standard
    18, annex C), including apostrophes between two such characters.
    """
    data, ends = text_bytes(texts)
    class_of, lead, last = classes.of_bytes(data)
    inside = class_of == WORD
    first = np.zeros(len(data) + 1, dtype=bool)
    first[ends] = True
    _join_at_quotes(data, class_of, first, inside, lead, last)
    # Words begin and end where `inside` changes, and on both sides of a border between two texts.
    padded = np.zeros(len(data) + 2, dtype=bool)
    padded[1:-1] = inside
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    starts, stops = _starts_and_stops(edges, ends[1:-1][_between(inside, ends[1:-1])])
    # The words' bytes only, one word after the other; no word holds a zero byte.
    kept = bytearray(data * inside).translate(None, b"\0")
    offsets = np.zeros(len(starts) + 1, dtype=np.int64)
    np.cumsum(stops - starts, out=offsets[1:])
    text = pa.LargeStringArray.from_buffers(len(starts), pa.py_buffer(offsets), pa.py_buffer(kept))
    return Pieces(text, np.diff(np.searchsorted(starts, ends)))


def _between(inside: Mask, borders: Positions) -> Mask:
    """Mark the borders between texts that lie between two words."""
    within = (borders > 0) & (borders < len(inside))
    at = borders[within]
    within[within] = inside[at - 1] & inside[at]
    return within


def _starts_and_stops(edges: Positions, borders: Positions) -> tuple[Positions, Positions]:
    if len(borders):
        borders = np.repeat(np.unique(borders), 2)  # an end and a beginning; an empty text has two borders at one place
        edges = np.insert(edges, np.searchsorted(edges, borders), borders)
    return edges[::2], edges[1::2]


def _join_at_quotes(data: Bytes, class_of: Bytes, first: Mask, inside: Mask, lead: Positions, last: Positions) -> None:
    plain = np.flatnonzero(data == APOSTROPHE)
    wide = class_of[lead] == QUOTE
    begin, end = np.concatenate([plain, lead[wide]]), np.concatenate([plain, last[wide]])
    within = (begin > 0) & (end + 1 < len(data))
    begin, end = begin[within], end[within]
    joins = (class_of[begin - 1] == WORD) & (class_of[end + 1] == WORD) & ~first[begin] & ~first[end + 1]
    for k in range(3):
        at = begin[joins] + k
        inside[at[at <= end[joins]]] = True


def _runs_and_spaces(data: Bytes, class_of: Bytes, ends: Positions, lead: Positions, last: Positions) -> Mask:
    blank = class_of == BLANK
    first = np.zeros(len(data) + 1, dtype=bool)  # first byte of a text, or the end of all
    first[ends] = True
    begins = np.zeros(len(data), dtype=bool)
    if not len(data):
        return begins
    changes = class_of[1:] != class_of[:-1]
    # Not blank: the class changes, and no space before it begins the piece.
    begins[1:] = changes & (data[:-1] != SPACE)
    # Blank: the first of a run (marked above), or the last of a run with more of the text after it.
    leaves = np.zeros(len(data), dtype=bool)
    leaves[:-1] = changes
    leaves &= ~first[1:]
    begins |= leaves & blank
    # A multi-byte blank begins at its first byte.
    wide = class_of[lead] == BLANK
    begins[last[wide]] = False
    begins[lead[wide][leaves[last[wide]]]] = True
    begins |= first[:-1]
    return begins


def _cut_contractions(data: Bytes, class_of: Bytes, ends: Positions, begins: Mask) -> None:
    """Cut after contractions, in place. Their order does not matter: consecutive contractions do not overlap."""
    at = np.flatnonzero(data == APOSTROPHE)
    at = at[begins[at]]
    room = ends[np.searchsorted(ends, at, side="right")] - at - 1  # bytes after the apostrophe in its text
    padded = np.concatenate([data, np.zeros(2, dtype=np.uint8)])
    one, two = padded[at + 1], padded[at + 2]
    short = np.isin(one, np.frombuffer(b"stmd", dtype=np.uint8)) & (room >= 1)
    pair = ((two == ord("e")) & ((one == ord("r")) | (one == ord("v")))) | ((one == ord("l")) & (two == ord("l")))
    long = pair & (room >= 2)
    cut = at[short | long]
    after = cut + 2 + long[short | long]
    begins[cut + 1] = False
    inside = after < len(data)
    begins[after[inside]] = True


def _pieces(data: Bytes, ends: Positions, begins: Positions) -> Pieces:
    offsets = np.append(begins, len(data)).astype(np.int64)
    text = pa.LargeStringArray.from_buffers(
        len(begins), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(data))
    )
    return Pieces(text, np.diff(np.searchsorted(begins, ends)))
