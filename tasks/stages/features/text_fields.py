"""Hash the token n-grams of a review's two fields for the text score: title and text together, and the title alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix

from tasks.parallel.comm import Array
from tasks.parallel.token_matrix import hash_tokens

TITLE_SHARE = 8  # titles have so many times fewer hash buckets
NEWLINES = ("\u010a", "\n", "<0x0A>")  # how tokenizers write what stands between title and text


def folded(vocabulary: Sequence[str]) -> Array:
    """Return (vocabulary,) int64: for each token id the least id of its equivalent tokens.

    ASCII tokens are equivalent if they differ only in case or in the mark of a leading space: "Great", "great" and
    " great" are one word. vocabulary: the tokens as the tokenizers library writes them, by id.
    """
    first: dict[str, int] = {}
    folds = np.arange(len(vocabulary))
    for i, token in enumerate(vocabulary):
        bare = token.lstrip("\u0120\u2581")  # how byte-level and SentencePiece tokenizers write a space
        if bare and bare.isascii():
            folds[i] = first.setdefault(bare.lower(), i)
    return folds


@dataclass(frozen=True)
class Reader:
    """Convert token ids to rows of hashed n-grams. folds: (vocabulary,), by `folded`; newline: the id of the token that
    ends a title, or None; dimensions: hash buckets of whole reviews."""

    folds: Array
    newline: int | None
    dimensions: int

    @classmethod
    def of(cls, vocabulary: Sequence[str], dimensions: int) -> Reader:
        newline = next((vocabulary.index(n) for n in NEWLINES if n in vocabulary), None)
        return cls(folded(vocabulary), newline, dimensions)

    def fields(self, ids: pa.ListArray) -> tuple[csr_matrix, csr_matrix]:
        """Return (n, d) rows of title and text together, and (n, d / TITLE_SHARE) of the title alone."""
        titles = self.titles(ids)
        small = self.dimensions // TITLE_SHARE
        return hash_tokens(ids, self.dimensions, self.folds), hash_tokens(titles, small, self.folds)

    def titles(self, ids: pa.ListArray) -> pa.ListArray:
        """Return the ids before each review's first newline; no ids for a review without a newline."""
        offsets = ids.offsets.to_numpy().astype(np.int64)
        tokens = ids.values.to_numpy()[offsets[0] : offsets[-1]]
        offsets -= offsets[0]
        newlines = np.flatnonzero(tokens == (-1 if self.newline is None else self.newline))
        at = np.searchsorted(newlines, offsets[:-1])
        ends = np.append(newlines, len(tokens))[at]  # the next newline from each review's start, maybe a later review's
        lengths = np.where(ends < offsets[1:], ends - offsets[:-1], 0)
        starts = np.cumsum(lengths) - lengths
        taken = np.arange(lengths.sum()) + np.repeat(offsets[:-1] - starts, lengths)
        return pa.ListArray.from_arrays(pa.array(np.append(starts, lengths.sum()), pa.int32()), pa.array(tokens[taken]))
