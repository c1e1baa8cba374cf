"""What the text score learns from: the questions about a review, and each rank's rows, hashed, with their answers.

The questions are whether a review has more than 1, 2, 3 and 4 stars (ordinal regression by its cumulative
probabilities; Frank and Hall, 2001), which gives the expected stars as 1 + their sum, and how helpful it is where that
is the target. Tokens that differ in case or in the space before them count as the same (`folded`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import csr_matrix

from tasks.domain.targets import labels, target_of
from tasks.parallel.comm import Array, Comm
from tasks.parallel.time_borders import timestamps_ms
from tasks.parallel.token_matrix import FilePair, read_ids
from tasks.stages.features.text_fields import Reader
from tasks.stages.features.text_score import STARS

LABEL_COLUMNS = ("rating", "helpful_votes", "total_votes")


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


def questions(reviews: pa.Table, target: str, min_votes: int) -> Array:
    """(n, C) float32 answers of reviews with LABEL_COLUMNS: 0 or 1 for each of STARS, then the target's own label where
    stars do not tell it, NaN where it is not known."""
    stars = reviews["rating"].to_numpy()
    answers = [stars > s for s in STARS]
    if (own := target_of(target)).from_stars is None:
        answers.append(labels(reviews, own, min_votes).to_numpy(zero_copy_only=False))
    return np.stack(answers, axis=1).astype(np.float32)


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


def some_ids(tokens: Path, rows: slice) -> pa.ListArray:
    ids = read_ids(tokens)
    return ids.take(pa.array(np.arange(len(ids))[rows]))
