"""Word2Vec: a vector for each token, by which a token and those around it are told from random ones.

An example is a target token, the tokens it is guessed from, and K tokens of noise, drawn with a chance in proportion to
count^0.75. With h the mean of the sources' input vectors and u the output vectors, its loss is

    -log sigmoid(u_target . h) - sum over noise of log sigmoid(-u_noise . h)

skip-gram guesses each neighbour (target) from the token in the middle (its only source); cbow guesses the token in the
middle from all its neighbours at once. Neighbours are at most b places away, b drawn from 1..window for each place; of
a frequent token with share f of all, a place is kept with a chance of sqrt(subsample / f) (Mikolov and others,
Distributed representations of words and phrases and their compositionality, 2013, section 2).

All examples of a minibatch share M > K draws, each weighing K / M: the same loss on average, and matrix products
instead of K rows gathered for each example (Ji and others, Parallelizing Word2Vec in shared and distributed memory,
2016).

Documents are spread over ranks. Each rank goes over its own in minibatches of plain SGD, at a rate that falls in a
straight line; after each round of about ROUND_TOKENS the ranks meet: each row moves by the mean of the changes of those
ranks that have changed it, so that a token that one rank alone has seen learns as fast as it would alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from tasks.parallel.allreduce import allreduce
from tasks.parallel.comm import Array, Comm

ROUND_TOKENS = 50_000  # of a rank between two meetings, and whose examples are shuffled together
NOISE = 64  # tokens drawn for a batch
NOISE_POWER = 0.75
LAST_RATE = 1e-4  # share of the learning rate that is left at the end


@dataclass(frozen=True)
class Word2VecParams:
    """method: what is guessed from what. window: places to each side. epochs: passes over the documents.

    subsample: the share of all tokens from which a token is frequent; 1 keeps all. min_count: tokens met less often
    have no vector. batch: examples whose gradients are summed before a step.
    """

    method: Literal["skip-gram", "cbow"]
    dimensions: int
    window: int = 5
    negatives: int = 5
    epochs: int = 2
    learning_rate: float = 0.025
    subsample: float = 1e-4
    min_count: int = 5
    batch: int = 256
    seed: int = 7


@dataclass(frozen=True)
class WordVectors:
    """ids: (V,) the tokens that have a vector, rising. vectors: (V, k) float32. losses: mean of each round."""

    ids: Array
    vectors: Array
    losses: list[float]


class Batch(NamedTuple):
    """B examples. sources: (B, S) rows of the input; given: (B, S) 1, or 0 where there is no source; target: (B,)."""

    sources: Array
    given: Array
    target: Array


def fit_word2vec(comm: Comm, tokens: Array, lengths: Array, *, vocabulary: int, params: Word2VecParams) -> WordVectors:
    """Train on all ranks' documents.

    tokens: (T,) ids in 0..vocabulary-1 of this rank's documents, one after the other; lengths: (n,) tokens of each; a
    rank may have none. The result is the same on every rank and in every run; which documents are on which rank changes
    it. Where no token is frequent enough there are no vectors.
    """
    counts = allreduce(comm, np.bincount(tokens, minlength=vocabulary))
    ids = np.flatnonzero(counts >= params.min_count)
    counts = counts[ids]
    documents = _renumbered(tokens, lengths, ids, vocabulary)
    # The vectors at the start are drawn alike on all ranks; what each draws later is its own.
    shape, common = (len(ids), params.dimensions), np.random.default_rng(params.seed)
    inputs: Array = ((common.random(shape) - 0.5) / params.dimensions).astype(np.float32)
    outputs: Array = np.zeros(shape, dtype=np.float32)
    rng = np.random.default_rng([params.seed, comm.rank])
    share = counts / max(counts.sum(), 1)
    keep = np.minimum(1.0, np.sqrt(params.subsample / np.maximum(share, 1e-12)))
    noise = np.cumsum(counts**NOISE_POWER)

    rounds = max(1, round(int(counts.sum()) / comm.world_size / ROUND_TOKENS))
    losses: list[float] = []
    for epoch in range(params.epochs):
        order = rng.permutation(len(lengths))
        for part, some in enumerate(np.array_split(order, rounds)):
            sent = inputs.copy(), outputs.copy()
            examples = _examples(*_thinned(*_chosen(documents, some), keep, rng), params, rng)
            total, done = 0.0, 0
            for batch in _batches(examples, params.batch, rng):
                progress = (epoch + (part + done / max(len(examples.target), 1)) / rounds) / params.epochs
                rate = params.learning_rate * max(1 - progress, LAST_RATE)
                drawn = np.searchsorted(noise, rng.random(NOISE) * noise[-1], "right")
                total += _step(inputs, outputs, batch, drawn, params.negatives, rate)
                done += len(batch.target)
            inputs, outputs = (_met(comm, before, after) for before, after in zip(sent, (inputs, outputs), strict=True))
            total, n = allreduce(comm, np.array([total, done]))
            losses.append(total / max(n, 1))
    return WordVectors(ids, inputs, losses)


def _met(comm: Comm, before: Array, after: Array) -> Array:
    """Each row moved by the mean of the changes of those ranks that have changed it."""
    change = after - before
    changed = allreduce(comm, np.any(change, axis=1).astype(np.float32))
    moved: Array = before + allreduce(comm, change) / np.maximum(changed, 1)[:, None]
    return moved


# Documents to examples


def _renumbered(tokens: Array, lengths: Array, ids: Array, vocabulary: int) -> tuple[Array, Array]:
    """Documents of the rows of `ids` alone: the other tokens are not there."""
    row = np.full(vocabulary, -1)
    row[ids] = np.arange(len(ids))
    return _filtered(row[tokens], lengths, row[tokens] >= 0)


def _filtered(tokens: Array, lengths: Array, kept: Array) -> tuple[Array, Array]:
    ends = np.concatenate([[0], np.cumsum(kept)])[np.concatenate([[0], np.cumsum(lengths)])]
    return tokens[kept], np.diff(ends)


def _chosen(documents: tuple[Array, Array], some: Array) -> tuple[Array, Array]:
    """These documents, in this order."""
    tokens, lengths = documents
    starts, chosen = (np.cumsum(lengths) - lengths)[some], lengths[some]
    places = np.repeat(starts - (np.cumsum(chosen) - chosen), chosen) + np.arange(chosen.sum())
    return tokens[places], chosen


def _thinned(tokens: Array, lengths: Array, keep: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    return _filtered(tokens, lengths, rng.random(len(tokens)) < keep[tokens])


def _examples(tokens: Array, lengths: Array, params: Word2VecParams, rng: np.random.Generator) -> Batch:
    """All examples of some documents; a place without neighbours gives none."""
    n, window = len(tokens), params.window
    reach = rng.integers(1, window + 1, n)
    document = np.repeat(np.arange(len(lengths)), lengths)
    offsets = [o for o in range(-window, window + 1) if o]
    places = np.arange(n)[:, None] + offsets
    inside = (places >= 0) & (places < n)
    places = np.where(inside, places, 0)
    near = inside & (np.abs(offsets) <= reach[:, None]) & (document[places] == document[:, None])
    if params.method == "skip-gram":
        middle, side = np.nonzero(near)
        target = tokens[places[middle, side]]
        return Batch(tokens[middle][:, None], np.ones((len(middle), 1), dtype=np.float32), target)
    some = near.any(axis=1)
    return Batch(tokens[places[some]], near[some].astype(np.float32), tokens[some])


def _batches(examples: Batch, size: int, rng: np.random.Generator) -> Iterator[Batch]:
    order = rng.permutation(len(examples.target))
    for start in range(0, len(order), size):
        some = order[start : start + size]
        yield Batch(*(column[some] for column in examples))


# One step


class Gradients(NamedTuple):
    """Of the summed loss of a batch, by each source's vector (B, S, k), and by output rows (B,) (M,) as met."""

    loss: float
    sources: Array
    target: Array
    noise: Array


def gradients(inputs: Array, outputs: Array, batch: Batch, noise: Array, negatives: float) -> Gradients:
    """The summed loss of a batch and its gradients, by sources (B, S, k), target (B, k) and noise (M, k).

    inputs, outputs: (V, k); noise: (M,) rows of outputs, for all examples of the batch, with a weight of negatives / M;
    to an example whose target it is, it counts for nothing.
    """
    weight = batch.given / batch.given.sum(axis=1, keepdims=True)
    h = inputs[batch.sources[:, 0]] if batch.sources.shape[1] == 1 else _means(inputs, batch.sources, weight)
    u, n = outputs[batch.target], outputs[noise]
    missed = _sigmoid(-np.einsum("bk,bk->b", h, u))
    taken = _sigmoid(h @ n.T)
    counts = (noise != batch.target[:, None]).astype(h.dtype) * h.dtype.type(negatives / len(noise))
    tiny = np.finfo(h.dtype).tiny
    loss = -np.log(np.maximum(1 - missed, tiny)).sum() - (counts * np.log(np.maximum(1 - taken, tiny))).sum()
    taken *= counts
    of_h = taken @ n - missed[:, None] * u
    return Gradients(float(loss), weight[:, :, None] * of_h[:, None, :], -missed[:, None] * h, taken.T @ h)


def _means(inputs: Array, sources: Array, weight: Array) -> Array:
    means: Array = np.einsum("bs,bsk->bk", weight, inputs[sources])
    return means


def _sigmoid(x: Array) -> Array:
    result: Array = 0.5 * (1 + np.tanh(0.5 * x))
    return result


def _step(inputs: Array, outputs: Array, batch: Batch, noise: Array, negatives: int, rate: float) -> float:
    """One step of gradient descent, in place. Returns the loss before it."""
    found = gradients(inputs, outputs, batch, noise, negatives)
    _descend(inputs, batch.sources, found.sources, rate)
    _descend(outputs, batch.target, found.target, rate)
    _descend(outputs, noise, found.noise, rate)
    return found.loss


def _descend(matrix: Array, rows: Array, gradient: Array, rate: float) -> None:
    """Move rows of a matrix, each by the sum of all its gradients, in place."""
    order = np.argsort(rows, axis=None, kind="stable")
    names = rows.ravel()[order]
    starts = np.flatnonzero(np.concatenate([[True], names[1:] != names[:-1]]))
    sums = np.add.reduceat(gradient.reshape(len(order), -1)[order], starts, axis=0)
    matrix[names[starts]] -= matrix.dtype.type(rate) * sums
