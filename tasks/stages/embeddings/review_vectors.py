"""Compute a vector for each review from its tokens, by a model fitted on reviews before a border in time.

svd: the review's TF-IDF weighted, hashed token uni- and bigrams (those of `tasks.stages.features.text_score`, rows of
unit length), projected on the first right singular vectors of the earlier reviews: latent semantic analysis (Deerwester
and others, 1990). skip-gram, cbow: the mean of its tokens' Word2Vec vectors. Neither uses ratings.

Fitting is data-parallel: each rank reads its files, and the sums are all-reduced (`tasks.parallel`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix, vstack

from tasks.parallel.allreduce import allreduce
from tasks.parallel.comm import Array, Comm
from tasks.parallel.comm_actors import run_actors
from tasks.parallel.svd import truncated_svd
from tasks.parallel.time_borders import timestamps_ms
from tasks.parallel.token_matrix import FilePair, hash_tokens, read_ids
from tasks.parallel.word2vec import Word2VecParams, fit_word2vec
from tasks.stages.embeddings.settings import EmbeddingsConfig

NOTHING = 1e-6  # singular values below this share of the first are rounding errors


@dataclass(frozen=True)
class SvdVectors:
    """idf: (d,) float32. basis: (d, k) float32."""

    idf: Array
    basis: Array

    def of(self, ids: pa.ListArray) -> Array:
        """(n, k) float32, NaN where a review has no token."""
        x = weighted(hash_tokens(ids, len(self.idf)), self.idf)
        return _where(np.diff(x.indptr) > 0, x @ self.basis)


@dataclass(frozen=True)
class WordMeans:
    """table: (vocabulary, k) float32 vectors, 0 for a token without one; known: (vocabulary,) 1 if it has one."""

    table: Array
    known: Array

    def of(self, ids: pa.ListArray) -> Array:
        """(n, k) float32, NaN where no token of a review has a vector."""
        tokens, lengths = flat(ids)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        present = csr_matrix((self.known[tokens], tokens, offsets), shape=(len(ids), len(self.known)))
        count = present @ np.ones(len(self.known), dtype=np.float32)
        return _where(count > 0, present @ self.table / np.maximum(count, 1)[:, None])


Vectors = SvdVectors | WordMeans


def _where(known: Array, vectors: Array) -> Array:
    return np.where(known[:, None], vectors, np.float32(np.nan)).astype(np.float32)


def fit(files: Sequence[FilePair], border: int, vocabulary: int, config: EmbeddingsConfig) -> tuple[Vectors, Any]:
    """Fit on Ray actors, one per shard; shards take files in turn. border: ms. Returns the model and its facts."""
    shards = [list(files[i :: config.shards]) for i in range(config.shards)]
    work = partial(fit_rank, border=border, vocabulary=vocabulary, config=config)
    fitted: tuple[Vectors, Any] = run_actors(work, [(shard,) for shard in shards])[0]
    return fitted


def fit_rank(
    comm: Comm, files: Sequence[FilePair], *, border: int, vocabulary: int, config: EmbeddingsConfig
) -> tuple[Vectors, Any] | None:
    """Run one rank of `fit`; all ranks compute the same model, and the first one returns it."""
    ids = [read_ids(tokens).filter(pa.array(timestamps_ms(reviews) < border)) for reviews, tokens in files]
    fitted = _fit_svd(comm, ids, config) if config.method == "svd" else _fit_words(comm, ids, vocabulary, config)
    return fitted if comm.rank == 0 else None


def _fit_svd(comm: Comm, ids: Sequence[pa.ListArray], config: EmbeddingsConfig) -> tuple[Vectors, Any]:
    d = config.svd.buckets
    x = vstack([csr_matrix((0, d), dtype=np.float32), *(hash_tokens(i, d) for i in ids)], format="csr")
    documents = np.bincount(x.indices, minlength=d)
    totals = allreduce(comm, np.append(documents, x.shape[0]))
    documents, n = totals[:-1], int(totals[-1])
    idf = (np.log((1 + n) / (1 + documents)) + 1).astype(np.float32)
    basis, values = truncated_svd(
        comm,
        weighted(x, idf),
        k=config.dimensions,
        oversampling=config.svd.oversampling,
        iterations=config.svd.iterations,
        seed=config.seed,
    )
    basis[:, values <= NOTHING * max(values[0], 1e-30)] = 0  # directions without any review
    kept = float((values**2).sum() / max(n, 1))  # a row's squared length is 1
    return SvdVectors(idf, basis), {"reviews": n, "kept": round(kept, 6), "singular_values": _rounded(values)}


def _fit_words(
    comm: Comm, ids: Sequence[pa.ListArray], vocabulary: int, config: EmbeddingsConfig
) -> tuple[Vectors, Any]:
    nothing = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    tokens, lengths = (np.concatenate(arrays) for arrays in zip(nothing, *map(flat, ids), strict=True))
    params = Word2VecParams(
        method="cbow" if config.method == "cbow" else "skip-gram",
        dimensions=config.dimensions,
        seed=config.seed,
        **config.word2vec.model_dump(),
    )
    fitted = fit_word2vec(comm, tokens, lengths, vocabulary=vocabulary, params=params)
    table = np.zeros((vocabulary, config.dimensions), dtype=np.float32)
    known = np.zeros(vocabulary, dtype=np.float32)
    table[fitted.ids], known[fitted.ids] = fitted.vectors, 1
    n = int(allreduce(comm, np.array([len(lengths)]))[0])
    return WordMeans(table, known), {"reviews": n, "tokens": len(fitted.ids), "losses": _rounded(fitted.losses)}


def flat(ids: pa.ListArray) -> tuple[Array, Array]:
    """Return the tokens of all rows, concatenated (T,), and each row's number of tokens (n,)."""
    offsets = ids.offsets.to_numpy().astype(np.int64)
    return ids.values.to_numpy()[offsets[0] : offsets[-1]], np.diff(offsets)


def weighted(x: csr_matrix, idf: Array) -> csr_matrix:
    """Multiply rows by idf and scale them to unit length, in place."""
    x.data *= idf[x.indices]
    rows = np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))
    lengths = np.sqrt(np.bincount(rows, x.data.astype(np.float64) ** 2, minlength=x.shape[0]))
    x.data /= lengths[rows].astype(np.float32)
    return x


def _rounded(values: Sequence[float] | Array) -> list[float]:
    return [round(float(v), 6) for v in values]
