"""Word2Vec: a vector for each token, trained to distinguish the token's neighbours from random tokens.

An example is a target token, the source tokens that predict it, and K noise tokens, drawn with probability proportional
to count^0.75. With h the mean of the sources' input vectors and u the output vectors, its loss is

    -log sigmoid(u_target . h) - sum over noise of log sigmoid(-u_noise . h)

skip-gram predicts each neighbour (target) from the middle token (its only source); cbow predicts the middle token from
all its neighbours at once. Neighbours are at most b places away, b drawn from 1..window for each place. An occurrence
of a frequent token, with share f of all tokens, is kept with probability sqrt(subsample / f) (Mikolov and others,
Distributed representations of words and phrases and their compositionality, 2013, section 2).

All examples of a minibatch share M > K noise tokens, each weighted K / M. The expected loss is the same, and matrix
products replace gathering K rows for each example (Ji and others, Parallelizing Word2Vec in shared and distributed
memory, 2016).

Documents are spread over ranks. Each rank trains on its own documents in minibatches of plain SGD, at a linearly
decaying rate. After each round of about ROUND_TOKENS the ranks synchronize: each row moves by the mean of its changes
on those ranks that changed it, so a token seen by one rank alone learns as fast as in training on that rank alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from tasks.parallel.allreduce import allreduce
from tasks.parallel.comm import Array, Comm

ROUND_TOKENS = 50_000  # per rank between two synchronizations; their examples are shuffled together
NOISE = 64  # noise tokens drawn for a batch
NOISE_POWER = 0.75
LAST_RATE = 1e-4  # share of the learning rate that remains at the end


@dataclass(frozen=True)
class Word2VecParams:
    """method: which tokens predict which. window: places to each side. epochs: passes over the documents.

    subsample: the share of all tokens above which a token is frequent; 1 keeps all. min_count: tokens that occur less
    often have no vector. batch: examples whose gradients are summed for one step.
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
    """ids: (V,) the tokens that have a vector, ascending. vectors: (V, k) float32. losses: mean loss of each round."""

    ids: Array
    vectors: Array
    losses: list[float]


class Batch(NamedTuple):
    """B examples. sources: (B, S) rows of the inputs; given: (B, S) 1 for a source, 0 for padding; target: (B,)."""

    sources: Array
    given: Array
    target: Array


def fit_word2vec(comm: Comm, tokens: Array, lengths: Array, *, vocabulary: int, params: Word2VecParams) -> WordVectors:
    """Train on all ranks' documents.

    tokens: (T,) ids in 0..vocabulary-1 of this rank's documents, concatenated; lengths: (n,) tokens of each document; a
    rank may have none. The result is the same on every rank and in every run, but depends on which documents are on
    which rank. If no token reaches min_count, there are no vectors.
    """
    counts = allreduce(comm, np.bincount(tokens, minlength=vocabulary))
    ids = np.flatnonzero(counts >= params.min_count)
    counts = counts[ids]
    documents = _renumbered(tokens, lengths, ids, vocabulary)
    # All ranks draw the same initial vectors; later each rank draws its own numbers.
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
    """Return each row moved by the mean of its changes on those ranks that changed it."""
    change = after - before
    changed = allreduce(comm, np.any(change, axis=1).astype(np.float32))
    moved: Array = before + allreduce(comm, change) / np.maximum(changed, 1)[:, None]
    return moved


# Documents to examples


def _renumbered(tokens: Array, lengths: Array, ids: Array, vocabulary: int) -> tuple[Array, Array]:
    """Replace each token by its row in `ids`; drop the tokens that are not in `ids`."""
    row = np.full(vocabulary, -1)
    row[ids] = np.arange(len(ids))
    return _filtered(row[tokens], lengths, row[tokens] >= 0)


def _filtered(tokens: Array, lengths: Array, kept: Array) -> tuple[Array, Array]:
    ends = np.concatenate([[0], np.cumsum(kept)])[np.concatenate([[0], np.cumsum(lengths)])]
    return tokens[kept], np.diff(ends)


def _chosen(documents: tuple[Array, Array], some: Array) -> tuple[Array, Array]:
    """Return the documents numbered `some`, in this order."""
    tokens, lengths = documents
    starts, chosen = (np.cumsum(lengths) - lengths)[some], lengths[some]
    places = np.repeat(starts - (np.cumsum(chosen) - chosen), chosen) + np.arange(chosen.sum())
    return tokens[places], chosen


def _thinned(tokens: Array, lengths: Array, keep: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    return _filtered(tokens, lengths, rng.random(len(tokens)) < keep[tokens])


def _examples(tokens: Array, lengths: Array, params: Word2VecParams, rng: np.random.Generator) -> Batch:
    """Return all examples of some documents; a place without neighbours yields none."""
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
    """The summed loss of a batch; its gradients by the vectors of sources (B, S, k), target (B, k) and noise (M, k)."""

    loss: float
    sources: Array
    target: Array
    noise: Array


def gradients(inputs: Array, outputs: Array, batch: Batch, noise: Array, negatives: float) -> Gradients:
    """Compute the summed loss of a batch and its gradients.

    inputs, outputs: (V, k). noise: (M,) rows of outputs, shared by all examples of the batch, each weighted
    negatives / M; for an example with the same target its weight is 0.
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
    """Take one step of gradient descent, in place. Returns the loss before the step."""
    loss, by_source, by_target, by_noise = gradients(inputs, outputs, batch, noise, negatives)
    _descend(inputs, batch.sources, by_source, rate)
    _descend(outputs, batch.target, by_target, rate)
    _descend(outputs, noise, by_noise, rate)
    return loss


def _descend(matrix: Array, rows: Array, gradient: Array, rate: float) -> None:
    """Move rows of a matrix, each by the sum of all its gradients, in place."""
    order = np.argsort(rows, axis=None, kind="stable")
    names = rows.ravel()[order]
    starts = np.flatnonzero(np.concatenate([[True], names[1:] != names[:-1]]))
    sums = np.add.reduceat(gradient.reshape(len(order), -1)[order], starts, axis=0)
    matrix[names[starts]] -= matrix.dtype.type(rate) * sums
