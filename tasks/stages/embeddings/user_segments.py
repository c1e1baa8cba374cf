"""Cluster users by k-means over their reviews' vectors, and find each review's user's segment before it.

A user is the mean of the vectors of their reviews, scaled to unit length, so that only the direction counts. The
centres are fitted on users as of a border in time; k is that of the highest silhouette. A review's segment is that of
the mean over its user's reviews strictly before its own time: null if none of them has a vector.

Rows are sent once, to a hash partition by user; each partition is then a rank of k-means, and a task that looks up
segments.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.parallel.comm import Array, Comm
from tasks.parallel.comm_actors import run_actors
from tasks.parallel.exchange import shuffle
from tasks.parallel.key_hash import partition_by_hash
from tasks.parallel.kmeans import Clusters, choose_clusters
from tasks.stages.embeddings.settings import SegmentsConfig

FittedSegments = tuple[Clusters, dict[str, Any]]  # and facts about them


def segments(
    blocks: list[Any], border: int, config: SegmentsConfig, *, partitions: int, seed: int
) -> tuple[list[list[Any]], FittedSegments]:
    """Return, for each block, references to tables (row, segment) of its reviews, one per partition; and the clusters.

    blocks: references to tables of `user_id`, `ms` and the vector's columns `emb_*`, in row order. border: ms.
    """
    import ray

    users = shuffle(blocks, split, together, partitions)
    work = partial(fit_rank, border=border, config=config, seed=seed)
    fitted: FittedSegments = run_actors(work, [(u,) for u in users])[0]
    shared = ray.put(fitted[0])
    task = ray.remote(answer).options(num_returns=len(blocks))
    answered = [task.remote(u, shared, len(blocks)) for u in users]
    if len(blocks) == 1:
        return [answered], fitted
    return [list(pieces) for pieces in zip(*answered, strict=True)], fitted


def split(block: pa.Table, partitions: int) -> list[pa.Table]:
    """Hash-partition a block's rows by user, each with its number."""
    rows = block.append_column("row", pa.array(np.arange(block.num_rows)))
    return partition_by_hash(rows, ("user_id",), partitions)


def together(_partition: int, slices: list[pa.Table]) -> pa.Table:
    """Concatenate the rows of all blocks, each with its block's number."""
    return pa.concat_tables(
        [s.append_column("block", pa.array(np.full(s.num_rows, i, dtype=np.int32))) for i, s in enumerate(slices)]
    )


def sums(rows: pl.DataFrame) -> pl.DataFrame:
    """Sum by user and time, in this order: `n` reviews that have a vector, and the sums of the vectors."""
    return (
        rows.group_by("user_id", "ms")
        .agg(pl.col("emb_0").count().cast(pl.Int64).alias("n"), pl.col("^emb_.*$").cast(pl.Float64).sum())
        .sort("user_id", "ms")
    )


def directions(totals: pl.DataFrame) -> Array:
    """Scale the (n, k) sums of vectors to unit length; their mean would have the same direction."""
    summed = totals.select("^emb_.*$").to_numpy()
    lengths = np.linalg.norm(summed, axis=1, keepdims=True)
    unit: Array = np.divide(summed, lengths, out=np.zeros(summed.shape), where=lengths > 0)
    return unit


def fit_rank(comm: Comm, users: pa.Table, *, border: int, config: SegmentsConfig, seed: int) -> FittedSegments:
    """Cluster the users of all partitions as they were before the border; every rank returns the same."""
    rows = pl.DataFrame(pl.from_arrow(users)).filter(pl.col("ms") < border)
    totals = sums(rows).group_by("user_id", maintain_order=True).agg(pl.col("n").sum(), pl.col("^emb_.*$").sum())
    clusters, silhouettes = choose_clusters(
        comm,
        directions(totals.filter(pl.col("n") > 0)),
        range(config.min_clusters, config.max_clusters + 1),
        sample=config.sample,
        seed=seed,
        starts=config.starts,
    )
    scores = {str(k): round(score, 6) for k, score in silhouettes.items()}
    return clusters, {"clusters": len(clusters.centres), "silhouettes": scores}


def answer(users: pa.Table, clusters: Clusters, blocks: int) -> Any:
    """Return, for each block, (row, segment) of this partition's reviews."""
    rows = pl.DataFrame(pl.from_arrow(users))
    past = sums(rows).with_columns(pl.col("n", "^emb_.*$").cum_sum().shift(1).over("user_id"))
    past = past.filter(pl.col("n") > 0) if len(clusters.centres) else past.clear()
    past = past.with_columns(segment=pl.Series(clusters.labels(directions(past)), dtype=pl.Int32))
    segment_of_rows = rows.join(past, on=["user_id", "ms"], how="left").select("block", "row", "segment")
    pieces = tuple(segment_of_rows.filter(pl.col("block") == i).drop("block").to_arrow() for i in range(blocks))
    return pieces if blocks > 1 else pieces[0]
