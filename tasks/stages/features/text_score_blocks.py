"""Fit the text score's models, block by block, the same on every rank: logistic and ridge regressions on TF-IDF.

Title and text together and the title alone, which weighs more than its few words do among all, have models of their
own. Document frequencies come from the same earlier blocks. Each block starts from the weights of the block before.
Blocks grow, for a model of twice the rows is another one, and of a few rows more is not (decision 017).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_matrix

from tasks.parallel.allreduce import allreduce
from tasks.parallel.comm import Array, Comm
from tasks.parallel.logistic import fit_logistic
from tasks.parallel.ridge import fit_ridge
from tasks.parallel.token_matrix import Weighted, first_rows
from tasks.stages.features.text_score import Model
from tasks.stages.features.text_score_rows import Shard, Task
from tasks.stages.features.text_score_settings import TextScoreConfig

MIN_DOCUMENTS = 3  # n-grams in fewer earlier reviews are left out


def fit_shard(comm: Comm, shard: Shard, config: TextScoreConfig, task: Task) -> list[Model]:
    """Fit all blocks' models of both fields, the same on every rank."""
    order = np.argsort(shard.times, kind="stable")  # earlier rows first: the past of any block is a prefix
    ends = np.concatenate([[0], np.searchsorted(shard.times[order], task.cuts, side="left")]).tolist()
    y, stars = shard.answers[order], shard.stars[order]
    return [_fit_field(comm, x[order], y, stars, ends, config) for x in shard.fields]


def _fit_field(
    comm: Comm, x: csr_matrix, y: Array, stars: Array, ends: Sequence[int], config: TextScoreConfig
) -> Model:
    """Fit all blocks' models of one field. ends: (K,) where each block's rows begin, and the end of the last one's."""
    d = x.shape[1]
    own = [
        np.concatenate([np.bincount(x.indices[x.indptr[a] : x.indptr[b]], minlength=d), [b - a, stars[a:b].sum()]])
        for a, b in pairwise(ends)
    ]
    totals = allreduce(comm, np.cumsum(own, axis=0))
    # Most columns occur in too few reviews. The others are cut out once, in the order in which the blocks meet them: a
    # block's columns come first, whatever later blocks add.
    met = totals[:, :d] >= MIN_DOCUMENTS
    columns = np.flatnonzero(met[-1])
    columns = columns[np.argsort(met[:, columns].argmax(0), kind="stable")]
    x = x[:, columns]
    squares = x.data**2
    logistic = np.zeros((1, y.shape[1]), dtype=np.float32)
    ridge = np.zeros(0, dtype=np.float32)
    idfs = np.zeros((len(own), d), dtype=np.float32)
    weights = np.zeros((len(own), d + 1, y.shape[1] + 1), dtype=np.float32)
    for k, end in enumerate(ends[1:]):
        here = columns[: met[k].sum()]
        n = max(totals[k, d], 1.0)
        mean = totals[k, d + 1] / n
        idf = (np.log((1 + n) / (1 + totals[k, here])) + 1).astype(np.float32)
        past = Weighted(first_rows(x, end), idf, squares)
        new = len(here) - len(ridge)
        start: Array = np.insert(logistic, np.full(new, len(ridge)), 0, axis=0)
        logistic = fit_logistic(comm, past, y[:end], l2=config.l2, iterations=config.iterations, start=start)
        off = (stars[:end] - mean).astype(np.float32)
        start = np.append(ridge, np.zeros(new, np.float32))
        ridge = fit_ridge(comm, past, off, l2=config.ridge_l2, iterations=config.iterations, start=start)
        idfs[k, here] = idf
        weights[k, here, :-1], weights[k, d, :-1] = logistic[:-1], logistic[-1]
        weights[k, here, -1], weights[k, d, -1] = ridge, mean
    return Model(idfs, weights)
