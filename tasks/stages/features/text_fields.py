"""The two fields of a review that the text score learns from, title and text together and the title alone, as rows of
hashed n-grams of tokens.
"""

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
    """(vocabulary,) int64: for each token id the least id of the tokens that say the same.

    Tokens of ASCII say the same where they differ in case or in the mark of a space before them alone: "Great", "great"
    and " great" are one word. vocabulary: the tokens as the tokenizers library writes them, by id.
    """
    first: dict[str, int] = {}
    found = np.arange(len(vocabulary))
    for i, token in enumerate(vocabulary):
        bare = token.lstrip("\u0120\u2581")  # how byte-level and SentencePiece tokenizers write a space
        if bare and bare.isascii():
            found[i] = first.setdefault(bare.lower(), i)
    return found


@dataclass(frozen=True)
class Reader:
    """From token ids to rows of hashed n-grams. folds: (vocabulary,); newline: the id that ends a title, None without;
    dimensions: hash buckets of whole reviews."""

    folds: Array
    newline: int | None
    dimensions: int

    @classmethod
    def of(cls, vocabulary: Sequence[str], dimensions: int) -> Reader:
        newline = next((vocabulary.index(n) for n in NEWLINES if n in vocabulary), None)
        return cls(folded(vocabulary), newline, dimensions)

    def fields(self, ids: pa.ListArray) -> tuple[csr_matrix, csr_matrix]:
        """(n, d) rows of title and text together, and (n, d / TITLE_SHARE) of the title alone."""
        titles = self.titles(ids)
        small = self.dimensions // TITLE_SHARE
        return hash_tokens(ids, self.dimensions, self.folds), hash_tokens(titles, small, self.folds)

    def titles(self, ids: pa.ListArray) -> pa.ListArray:
        """The ids before the first newline of each review; none where there is no newline."""
        offsets = ids.offsets.to_numpy().astype(np.int64)
        tokens = ids.values.to_numpy()[offsets[0] : offsets[-1]]
        offsets -= offsets[0]
        newlines = np.flatnonzero(tokens == (-1 if self.newline is None else self.newline))
        at = np.searchsorted(newlines, offsets[:-1])
        ends = np.append(newlines, len(tokens))[at]  # of each review the next newline, maybe a later review's
        lengths = np.where(ends < offsets[1:], ends - offsets[:-1], 0)
        starts = np.cumsum(lengths) - lengths
        taken = np.arange(lengths.sum()) + np.repeat(offsets[:-1] - starts, lengths)
        return pa.ListArray.from_arrays(pa.array(np.append(starts, lengths.sum()), pa.int32()), pa.array(tokens[taken]))
