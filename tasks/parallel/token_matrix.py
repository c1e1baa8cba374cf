"""Turn token ids of reviews into a sparse matrix of hashed uni- and bigrams, and weight it by TF-IDF as an operator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import csr_matrix

from tasks.parallel.comm import Array

FilePair = tuple[Path, Path]  # a file of reviews and the file of their tokens, in the same row order
ODD_A, ODD_B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


def read_ids(file: Path) -> pa.ListArray:
    return pq.ParquetFile(file).read(columns=["input_ids"])["input_ids"].combine_chunks()


def hash_tokens(ids: pa.ListArray, dimensions: int, folds: Array | None = None) -> csr_matrix:
    """Return the token uni- and bigrams of each row as a (n, dimensions) matrix of 1 + log(count), float32.

    Multiply-shift hashing (Dietzfelbinger and others, 1997) maps them to `dimensions` buckets, without signs. folds:
    (vocabulary,) the id that replaces each id.
    """
    offsets = ids.offsets.to_numpy().astype(np.int64)
    tokens = ids.values.to_numpy()[offsets[0] : offsets[-1]]
    tokens = (tokens if folds is None else folds[tokens]).astype(np.uint64) + np.uint64(1)
    offsets -= offsets[0]
    bits = (dimensions - 1).bit_length()
    row = np.repeat(np.arange(len(ids)) << bits, np.diff(offsets))
    inside = row[1:] == row[:-1]  # a bigram never spans two reviews
    own = tokens * ODD_A
    grams = np.concatenate([own, (own[:-1] ^ tokens[1:] * ODD_B)[inside] * ODD_A])
    grams >>= np.uint64(20)
    whole = np.uint64(dimensions)
    bucket = grams & (whole - np.uint64(1)) if dimensions == 1 << bits else grams % whole
    # NumPy sorts integers in a third of the time that SciPy takes to sort each row.
    cells = np.concatenate([row, row[1:][inside]])
    cells |= bucket.view(np.int64)
    cells.sort()
    first = np.flatnonzero(np.append(True, cells[1:] != cells[:-1])[: len(cells)])
    values = np.log(np.diff(np.append(first, len(cells))).astype(np.float32)) + 1
    cells = cells[first]
    ends = np.cumsum(np.bincount(cells >> bits, minlength=len(ids)))
    columns = (cells & (1 << bits) - 1).astype(np.int32)
    return csr_matrix((values, columns, np.append(0, ends).astype(np.int32)), shape=(len(ids), dimensions))


class Weighted:
    """Rows times idf, scaled to unit length, as an operator: the weighted matrix itself is never built.

    x: (n, at least d), of which the first d columns count; idf: (d,); squares: squares of x's values, and perhaps of
    rows after x's, where the caller has them already.
    """

    def __init__(self, x: csr_matrix, idf: Array, squares: Array | None = None) -> None:
        self.x, self.idf = x, idf
        squares = x.data**2 if squares is None else squares[: len(x.data)]
        self.squared = csr_matrix((squares, x.indices, x.indptr), shape=x.shape, copy=False)
        self.scale = (1 / np.sqrt(np.maximum(self.squared @ self._all_columns(idf**2), 1e-24))).astype(np.float32)

    def squares(self) -> Array:
        """Return the sum of squares of each column (d,)."""
        sums: Array = (self.squared.T @ self.scale**2)[: len(self.idf)] * self.idf**2
        return sums

    def __matmul__(self, v: Array) -> Array:
        """Return the product (n,) with v (d,), or (n, k) with v (d, k)."""
        return _times_rows(self.scale, self.x @ self._all_columns(_times_rows(self.idf, v)))

    def _all_columns(self, v: Array) -> Array:
        """Extend v (d,) or (d, k) by zeros for the columns that do not count."""
        if len(v) == self.x.shape[1]:
            return v
        extended = np.zeros((self.x.shape[1], *v.shape[1:]), v.dtype)
        extended[: len(v)] = v
        return extended

    @property
    def T(self) -> Transposed:  # numpy's name for it
        return Transposed(self)


class Transposed:
    def __init__(self, weighted: Weighted) -> None:
        self.of = weighted

    def __matmul__(self, u: Array) -> Array:
        """Return the product (d,) with u (n,), or (d, k) with u (n, k)."""
        idf = self.of.idf
        return _times_rows(idf, (self.of.x.T @ _times_rows(self.of.scale, u))[: len(idf)])


def _times_rows(factors: Array, a: Array) -> Array:
    product: Array = factors * a if a.ndim == 1 else factors[:, None] * a
    return product


def first_rows(x: csr_matrix, end: int) -> csr_matrix:
    """Return the first `end` rows of a matrix, sharing its memory (slicing would copy)."""
    stop = x.indptr[end]
    return csr_matrix((x.data[:stop], x.indices[:stop], x.indptr[: end + 1]), shape=(end, x.shape[1]), copy=False)
