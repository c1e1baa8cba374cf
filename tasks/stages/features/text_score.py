"""What a review's words say of its label, learned from earlier reviews alone.

Time is cut into K blocks, at the shares `borders` of the reviews. The reviews of block k are scored by logistic
regressions on TF-IDF weighted, hashed token uni- and bigrams, fitted on blocks 0..k-1 and no other row; block 0 gets no
score (null). So a score never knows its
own review's label, nor any later one: prequential evaluation (Dawid, 1984). Document frequencies come from the same
earlier blocks. Tokens that differ in case or in the space before them count as the same (`folded`).

The questions are whether a review has more than 1, 2, 3 and 4 stars (ordinal regression by its cumulative
probabilities; Frank and Hall, 2001), which gives the expected stars as 1 + their sum, and how helpful it is where that
is the target; a ridge regression says the stars once more. Both are asked of title and text together and of the title
alone, which weighs more than its few words do among all. Fitting is data-parallel: each rank hashes its rows once,
gradients are all-reduced (`tasks.parallel.logistic`, `.ridge`), and each block starts from the weights of the block
before. Blocks grow, for a model of twice the rows is another one, and of a few rows more is not
(docs/decisions/017-the-speed-of-the-main-job.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, Field
from scipy.sparse import csr_matrix

from tasks.core.sections import Positive, Section
from tasks.domain.targets import labels, target_of
from tasks.engines.cluster import gather
from tasks.parallel.allreduce import allreduce
from tasks.parallel.comm import Array, Comm, run_actors
from tasks.parallel.logistic import fit_logistic
from tasks.parallel.ridge import fit_ridge
from tasks.parallel.time_borders import borders, timestamps_ms
from tasks.parallel.token_matrix import FilePair, Weighted, first_rows, read_ids
from tasks.stages.features.text_fields import Reader

STARS = (1, 2, 3, 4)  # the questions: more stars than these
MIN_DOCUMENTS = 3  # n-grams in fewer earlier reviews are left out
ANSWERS = {
    f"{field}_{name}": f"{meaning}, {where}"
    for field, where in (("text", "by title and text"), ("title", "by the title alone"))
    for name, meaning in (
        *((f"above_{s}", f"probability of more than {s} stars") for s in STARS),
        ("ridge", "stars by ridge regression"),
    )
}
LABEL_COLUMNS = ("rating", "helpful_votes", "total_votes")


def _ascending(borders: list[float]) -> list[float]:
    if any(not 0 < border < 1 for border in borders) or borders != sorted(set(borders)):
        raise ValueError("shares between 0 and 1, each greater than the one before it")
    return borders


class TextScoreConfig(Section):
    dimensions: Annotated[int, Field(ge=1024)]
    borders: Annotated[list[float], Field(min_length=1), AfterValidator(_ascending)]
    shards: Positive
    l2: Annotated[float, Field(gt=0)]
    ridge_l2: Annotated[float, Field(gt=0)]
    iterations: Positive
    max_reviews: Positive


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
            z = Weighted(x[rows], self.idf[k - 1]) @ weights[:-1] + weights[-1]
            z[:, :-1] = 1 / (1 + np.exp(-z[:, :-1]))
            scores[rows] = z
        return scores


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


def questions(reviews: pa.Table, target: str, min_votes: int) -> Array:
    """(n, C) float32 answers of reviews with LABEL_COLUMNS: 0 or 1 for each of STARS, then the target's own label where
    stars do not tell it, NaN where it is not known."""
    stars = reviews["rating"].to_numpy()
    answers = [stars > s for s in STARS]
    if (own := target_of(target)).from_stars is None:
        answers.append(labels(reviews, own, min_votes).to_numpy(zero_copy_only=False))
    return np.stack(answers, axis=1).astype(np.float32)


def fit(
    files: Sequence[FilePair],
    vocabulary: Sequence[str],
    config: TextScoreConfig,
    target: str = "rating",
    min_votes: int = 1,
) -> tuple[TextScore, list[Any]]:
    """Fit all blocks on Ray actors, one per shard, each with every so many rows of all files: files differ in size.

    Of more than `config.max_reviews` reviews, one in so many is learned from that about as many remain. Returns the
    models of the last block, and for each file a reference to each rank's scores, which `interleaved` puts together.
    """
    cuts = np.array(borders([reviews for reviews, _ in files], config.borders))
    rows = sum(pq.read_metadata(reviews).num_rows for reviews, _ in files)
    stride = max(1, -(-rows // config.max_reviews))
    task = Task(cuts, Reader.of(vocabulary, config.dimensions), stride, target, min_votes)
    work = partial(fit_and_score, config=config, task=task)
    results = run_actors(work, [(files,)] * config.shards, returns=[1 + len(files)] * config.shards)
    last, *_ = gather([results[0][0]])
    scored = [[of_rank[1 + i] for of_rank in results] for i in range(len(files))]
    return TextScore(task.cuts[-1:], task.reader, *last), scored


def interleaved(pieces: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """(n, C) scores of both fields of a file, of which rank r of S gave rows r, r + S, r + 2 S, ..."""
    fields = []
    for of_field in zip(*pieces, strict=True):
        whole = np.empty((sum(map(len, of_field)), of_field[0].shape[1]), dtype=np.float32)
        for rank, piece in enumerate(of_field):
            whole[rank :: len(of_field)] = piece
        fields.append(whole)
    return fields[0], fields[1]


@dataclass(frozen=True)
class Task:
    """What all ranks know. cuts: (K - 1,) ms; every `stride`th review of a file is read."""

    cuts: Array
    reader: Reader
    stride: int = 1
    target: str = "rating"
    min_votes: int = 1


@dataclass(frozen=True)
class Shard:
    """A rank's rows, file by file, `rows` of each.

    fields: rows of both; answers: (n, C - 1); stars: (n,) float64; times: (n,) ms.
    """

    fields: list[csr_matrix]
    answers: Array
    stars: Array
    times: Array
    rows: list[int]


def fit_and_score(comm: Comm, files: Sequence[FilePair], *, config: TextScoreConfig, task: Task) -> tuple[Any, ...]:
    """One rank's part of `fit`: on the first rank the last block's models, then the scores of its rows of each file.

    What was hashed to learn from is scored as it is: hashing takes as long as fitting two blocks.
    """
    shard = read_shard(comm, files, task)
    models = fit_shard(comm, shard, config, task)
    score = TextScore(task.cuts, task.reader, *models)
    if task.stride == 1:
        whole, title = score.score_rows(shard.fields, shard.times)
        cuts = np.cumsum(shard.rows)[:-1]
        scored = list(zip(np.split(whole, cuts), np.split(title, cuts), strict=True)) if files else []
    else:
        mine = slice(comm.rank, None, comm.world_size)
        scored = [score.score(some_ids(tokens, mine), timestamps_ms(reviews)[mine]) for reviews, tokens in files]
    return [Model(m.idf[-1:], m.weights[-1:]) for m in models] if not comm.rank else None, *scored


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
        start = np.insert(logistic, np.full(new, len(ridge)), 0, axis=0)
        logistic = fit_logistic(comm, past, y[:end], l2=config.l2, iterations=config.iterations, start=start)
        off = (stars[:end] - mean).astype(np.float32)
        start = np.append(ridge, np.zeros(new, np.float32))
        ridge = fit_ridge(comm, past, off, l2=config.ridge_l2, iterations=config.iterations, start=start)
        idfs[k, here] = idf
        weights[k, here, :-1], weights[k, d, :-1] = logistic[:-1], logistic[-1]
        weights[k, here, -1], weights[k, d, -1] = ridge, mean
    return Model(idfs, weights)


def some_ids(tokens: Path, rows: slice) -> pa.ListArray:
    ids = read_ids(tokens)
    return ids.take(pa.array(np.arange(len(ids))[rows]))


def read_shard(comm: Comm, files: Sequence[FilePair], task: Task) -> Shard:
    """Read and hash a rank's rows: of every `task.stride`th review in each file its share, in turn with the others."""
    from scipy.sparse import vstack

    empty = pa.table({c: pa.array([], pa.float32()) for c in LABEL_COLUMNS})
    fields = [task.reader.fields(pa.array([], pa.list_(pa.int32())))]
    answers, stars = [questions(empty, task.target, task.min_votes)], [np.zeros(0)]
    times = [np.zeros(0, dtype=np.int64)]
    some = slice(comm.rank * task.stride, None, comm.world_size * task.stride)
    for reviews, tokens in files:
        fields.append(task.reader.fields(some_ids(tokens, some)))
        known = pq.ParquetFile(reviews).read(columns=list(LABEL_COLUMNS))
        answers.append(questions(known, task.target, task.min_votes)[some])
        stars.append(known["rating"].to_numpy().astype(np.float64)[some])
        times.append(timestamps_ms(reviews)[some])
    stacked = [vstack(blocks, format="csr") for blocks in zip(*fields, strict=True)]
    rows = [len(one) for one in times[1:]]
    return Shard(stacked, np.concatenate(answers), np.concatenate(stars), np.concatenate(times), rows)
