"""What a review's words say of its rating, learned from earlier reviews alone.

Time is cut into K blocks. The reviews of block k are scored by a ridge regression of the rating on TF-IDF weighted,
hashed token uni- and bigrams, fitted on blocks 0..k-1 and no other row; block 0 gets no score (null). So a score
never knows its own review's rating, nor any later one: prequential evaluation (Dawid, 1984). Inverse document
frequencies come from the same earlier blocks.

Fitting is data-parallel: each rank hashes its files once and the conjugate-gradient sums are all-reduced; each block
starts from the weights of the block before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import csr_matrix

from tasks.core.settings import TextScoreConfig
from tasks.parallel.allreduce import allreduce
from tasks.parallel.comm import Array, Comm, run_actors
from tasks.parallel.ridge import fit_ridge
from tasks.timeline import borders, timestamps_ms

FilePair = tuple[Path, Path]  # a file of reviews and the file of its tokens, row by row
ODD_A, ODD_B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


@dataclass(frozen=True)
class TextScore:
    """K - 1 fitted models. borders: (K - 1,) ms; idf, weights: (K - 1, d) float32; mean: (K - 1,) rating mean."""

    borders: Array
    idf: Array
    weights: Array
    mean: Array

    def score(self, x: csr_matrix, times_ms: Array) -> Array:
        """Scores (n,) of hashed rows (n, d), NaN before the first border."""
        block = np.searchsorted(self.borders, times_ms, side="right")
        scores = np.full(len(times_ms), np.nan)
        for k in range(1, len(self.borders) + 1):
            rows = np.flatnonzero(block == k)
            if len(rows):
                scores[rows] = Weighted(x[rows], self.idf[k - 1]) @ self.weights[k - 1] + self.mean[k - 1]
        return scores


def fit(files: Sequence[FilePair], config: TextScoreConfig) -> TextScore:
    """Fit all blocks on Ray actors, one per shard; files are dealt out in turn."""
    cuts = np.array(borders([reviews for reviews, _ in files], [k / config.blocks for k in range(1, config.blocks)]))
    shards = [list(files[i :: config.shards]) for i in range(config.shards)]
    results = run_actors(partial(fit_rank, config=config, cuts=cuts), [(shard,) for shard in shards])
    return results[0]


def fit_rank(comm: Comm, files: Sequence[FilePair], *, config: TextScoreConfig, cuts: Array) -> TextScore:
    """One rank's part of `fit`; every rank returns the same models."""
    x, y, times = _read_shard(files, config.dimensions)
    order = np.argsort(times, kind="stable")  # earlier rows first: the past of any block is a prefix
    x, y = x[order], y[order]
    ends = np.concatenate([[0], np.searchsorted(times[order], cuts, side="left")])
    weights = np.zeros(config.dimensions, dtype=np.float32)
    documents = np.zeros(config.dimensions)
    models: list[tuple[Array, Array, float]] = []
    for start, end in pairwise(ends.tolist()):
        documents += np.bincount(x.indices[x.indptr[start] : x.indptr[end]], minlength=config.dimensions)
        totals = allreduce(comm, np.concatenate([documents, [end, y[:end].sum()]]))
        n = max(totals[-2], 1.0)
        mean = totals[-1] / n
        idf = (np.log((1 + n) / (1 + totals[:-2])) + 1).astype(np.float32)
        weights = fit_ridge(
            comm,
            Weighted(_first_rows(x, end), idf),
            (y[:end] - mean).astype(np.float32),
            l2=config.l2,
            iterations=config.iterations,
            start=weights,
        )
        models.append((idf, weights, float(mean)))
    idfs, fitted, means = zip(*models, strict=True)
    return TextScore(cuts, np.stack(idfs), np.stack(fitted), np.array(means))


def _read_shard(files: Sequence[FilePair], dimensions: int) -> tuple[csr_matrix, Array, Array]:
    from scipy.sparse import vstack

    if not files:
        return csr_matrix((0, dimensions), dtype=np.float32), np.zeros(0), np.zeros(0, dtype=np.int64)
    hashed = [hash_tokens(read_ids(tokens), dimensions) for _, tokens in files]
    ratings = [pq.ParquetFile(r).read(columns=["rating"])["rating"].to_numpy().astype(np.float64) for r, _ in files]
    return vstack(hashed, format="csr"), np.concatenate(ratings), np.concatenate([timestamps_ms(r) for r, _ in files])


def read_ids(file: Path) -> pa.ListArray:
    return pq.ParquetFile(file).read(columns=["input_ids"])["input_ids"].combine_chunks()


def hash_tokens(ids: pa.ListArray, dimensions: int) -> csr_matrix:
    """Token uni- and bigrams of each row as a (n, dimensions) matrix of 1 + log(count), float32.

    Multiply-shift hashing (Dietzfelbinger and others, 1997) into `dimensions` buckets, without signs.
    """
    offsets = ids.offsets.to_numpy().astype(np.int64)
    tokens = ids.values.to_numpy()[offsets[0] : offsets[-1]].astype(np.uint64) + np.uint64(1)
    offsets -= offsets[0]
    row = np.repeat(np.arange(len(ids), dtype=np.int32), np.diff(offsets))
    inside = row[1:] == row[:-1]  # a bigram never spans two reviews
    grams = np.concatenate([tokens * ODD_A, (tokens[:-1] * ODD_A ^ tokens[1:] * ODD_B)[inside] * ODD_A])
    bucket = ((grams >> np.uint64(20)) % np.uint64(dimensions)).astype(np.int32)
    ones = np.ones(len(bucket), dtype=np.float32)
    counts = csr_matrix((ones, (np.concatenate([row, row[1:][inside]]), bucket)), shape=(len(ids), dimensions))
    counts.sum_duplicates()
    np.log(counts.data, out=counts.data)
    counts.data += 1
    return counts


class Weighted:
    """Rows times idf, scaled to unit length, as an operator: the weighted matrix itself is never made."""

    def __init__(self, x: csr_matrix, idf: Array) -> None:
        self.x, self.idf = x, idf
        squares = csr_matrix((x.data**2, x.indices, x.indptr), shape=x.shape, copy=False) @ idf**2
        self.scale = (1 / np.sqrt(np.maximum(squares, 1e-24))).astype(np.float32)

    def __matmul__(self, v: Array) -> Array:
        return self.scale * (self.x @ (self.idf * v))

    @property
    def T(self) -> Transposed:  # numpy's name for it
        return Transposed(self)


class Transposed:
    def __init__(self, weighted: Weighted) -> None:
        self.of = weighted

    def __matmul__(self, u: Array) -> Array:
        return self.of.idf * (self.of.x.T @ (self.of.scale * u))


def _first_rows(x: csr_matrix, end: int) -> csr_matrix:
    """The first rows of a matrix, sharing its memory (slicing would copy)."""
    stop = x.indptr[end]
    return csr_matrix((x.data[:stop], x.indices[:stop], x.indptr[: end + 1]), shape=(end, x.shape[1]), copy=False)
