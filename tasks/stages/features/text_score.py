"""What a review's words say of its label, by models of earlier reviews alone: the fitted models, and how they score.

Time is cut into K blocks. The reviews of block k are scored by models of blocks 0..k-1 and no other row; block 0 gets
no score (null). So a score never knows its own review's label, nor any later one: prequential evaluation (Dawid, 1984).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix

from tasks.domain.targets import target_of
from tasks.parallel.comm import Array
from tasks.parallel.token_matrix import Weighted
from tasks.stages.features.text_fields import Reader

STARS = (1, 2, 3, 4)  # the questions: more stars than these
ANSWERS = {
    f"{field}_{name}": f"{meaning}, {where}"
    for field, where in (("text", "by title and text"), ("title", "by the title alone"))
    for name, meaning in (
        *((f"above_{s}", f"probability of more than {s} stars") for s in STARS),
        ("ridge", "stars by ridge regression"),
    )
}


@dataclass(frozen=True)
class Model:
    """K - 1 fitted models of C questions about one field of the reviews, the last of them the ridge regression's.

    idf: (K - 1, d) float32; weights: (K - 1, d + 1, C) float32, intercepts last.
    """

    idf: Array
    weights: Array

    def score(self, x: csr_matrix, block: Array) -> Array:
        """(n, C) float32 answers for rows x (n, d), NaN in block 0. block: (n,)."""
        scores = np.full((x.shape[0], self.weights.shape[2]), np.nan, dtype=np.float32)
        for k in np.unique(block[block > 0]).tolist():
            rows = np.flatnonzero(block == k)
            weights = self.weights[k - 1]
            of_block = x if len(rows) == x.shape[0] else x[rows]  # a new review is of the last block, as all beside it
            own, idf, used = only_used(of_block, self.idf[k - 1], weights[:-1])
            z = Weighted(own, idf) @ used + weights[-1]
            z[:, :-1] = 1 / (1 + np.exp(-z[:, :-1]))
            scores[rows] = z
        return scores


def only_used(x: csr_matrix, idf: Array, weights: Array) -> tuple[csr_matrix, Array, Array]:
    """Leave out the columns that rows (n, d) do not use, where most are such: a single review has hundreds of d. The
    products stay the same to the last bit, as the values keep their order."""
    if x.nnz > len(idf) // 8:
        return x, idf, weights
    used, places = np.unique(x.indices, return_inverse=True)
    narrow = csr_matrix((x.data, places.astype(x.indices.dtype), x.indptr), shape=(x.shape[0], len(used)), copy=False)
    return narrow, idf[used], weights[used]


@dataclass(frozen=True)
class TextScore:
    """Models of both fields, of all blocks or of the last ones alone. borders: (K - 1,) ms, where each one begins."""

    borders: Array
    reader: Reader
    whole: Model
    title: Model

    def score(self, ids: pa.ListArray, times_ms: Array) -> tuple[Array, Array]:
        """(n, C) answers by title and text, and by the title alone, for reviews' token ids."""
        return self.score_rows(self.reader.fields(ids), times_ms)

    def score_rows(self, fields: Sequence[csr_matrix], times_ms: Array) -> tuple[Array, Array]:
        """The same for rows that `reader.fields` gave."""
        block = np.searchsorted(self.borders, times_ms, side="right")
        return self.whole.score(fields[0], block), self.title.score(fields[1], block)


def columns(scores: tuple[Array, Array], target: str) -> dict[str, Array]:
    """The features, (n,) each: `text_score` in the target's unit, then all answers of both fields (`ANSWERS`)."""
    whole, from_stars = scores[0], target_of(target).from_stars
    expected = from_stars(whole[:, : len(STARS)]) if from_stars else whole[:, len(STARS)]
    answers = [answer for field in scores for answer in (*field[:, : len(STARS)].T, field[:, -1])]
    return {"text_score": expected, **dict(zip(ANSWERS, answers, strict=True))}
