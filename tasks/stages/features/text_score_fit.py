"""Fit the text score on ranks, an actor for each shard of the reviews, and score all reviews there.

Each rank hashes its rows once; gradients are all-reduced (`tasks.parallel.logistic`, `.ridge`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tasks.algorithms.sampling import stride
from tasks.engines.cluster import gather
from tasks.parallel.comm import Array, Comm
from tasks.parallel.comm_actors import run_actors
from tasks.parallel.time_borders import borders, timestamps_ms
from tasks.parallel.token_matrix import FilePair
from tasks.stages.features.text_fields import Reader
from tasks.stages.features.text_score import Model, TextScore
from tasks.stages.features.text_score_blocks import fit_shard
from tasks.stages.features.text_score_rows import Task, read_shard, some_ids
from tasks.stages.features.text_score_settings import TextScoreConfig


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
    every = stride(rows, config.max_reviews)
    task = Task(cuts, Reader.of(vocabulary, config.dimensions), every, target, min_votes)
    work = partial(fit_and_score, config=config, task=task)
    results = run_actors(work, [(files,)] * config.shards, returns=[1 + len(files)] * config.shards)
    last, *_ = gather([results[0][0]])
    scored = [[of_rank[1 + i] for of_rank in results] for i in range(len(files))]
    return TextScore(task.cuts[-1:], task.reader, *last), scored


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


def interleaved(pieces: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """(n, C) scores of both fields of a file, of which rank r of S gave rows r, r + S, r + 2 S, ..."""
    fields = []
    for of_field in zip(*pieces, strict=True):
        whole = np.empty((sum(map(len, of_field)), of_field[0].shape[1]), dtype=np.float32)
        for rank, piece in enumerate(of_field):
            whole[rank :: len(of_field)] = piece
        fields.append(whole)
    return fields[0], fields[1]
