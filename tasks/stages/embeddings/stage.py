"""Compute a dense vector of each clean review's tokens, and its user's segment.

The vectors come from a model without ratings (`tasks.stages.embeddings.review_vectors`: SVD, skip-gram or cbow), the
segments from k-means over users' vectors (`tasks.stages.embeddings.user_segments`). Both are fitted once, on the
earliest `fit_share` of the reviews by time. A vector depends on its own text and on the texts before the border; a
segment also on what its user wrote strictly before the review. So no later review influences either, except for reviews
before the border: the model has seen the texts of that whole period, though no rating. With `fit_share` at or below
`split.train` this does not affect validation and test.

Out: one file per file of reviews, in the same row order: `review_id`, `emb_0` ... float32, null for a review without a
token (that the model knows), `segment` int32, null for a user without an earlier review. Also `vectors.npz`, the arrays
of both models, so that new reviews can be embedded. The flow skips the stage unless conf switches it on.

    raymill run --until embeddings --set embeddings.enabled=true
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.snapshot_files import FileEntry, FileSink, part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.engines import cluster
from tasks.parallel.time_borders import borders, timestamps_ms
from tasks.parallel.token_matrix import FilePair, read_ids
from tasks.stages.embeddings import review_vectors
from tasks.stages.embeddings.settings import EmbeddingsConfig


@stage(version=1, config=EmbeddingsConfig, libraries=("pyarrow", "polars", "scipy", "numpy"))
def embeddings(reviews: Snapshot, tokens: Snapshot, config: EmbeddingsConfig, out: SnapshotWriter) -> None:
    import ray

    files = list(zip(reviews.files(), tokens.files(), strict=True))
    some = [file for file, entry in zip(reviews.files(), reviews.entries(), strict=True) if entry.rows]
    (border,) = borders(some, [config.fit_share]) if some else [0]  # an empty file has no times
    model, about = review_vectors.fit(files, border, tokens.facts["vocabulary"], config)
    out.fact(columns=names(config), method=config.method, border=border, fitted=about)
    arrays = dict(vars(model))

    shared, embed, write = ray.put(model), ray.remote(embed_file), ray.remote(write_file)
    blocks = [embed.remote(pair, shared) for pair in files]
    pieces: list[list[Any]] = [[] for _ in files]
    if config.segments.enabled:
        from tasks.stages.embeddings import (
            user_segments,  # imports scipy.spatial, which a flow without this stage does not need
        )

        pieces, (clusters, segments) = user_segments.segments(
            blocks, border, config.segments, partitions=config.shards, seed=config.seed
        )
        arrays["centres"] = clusters.centres
        out.fact(segments=segments)
    written = [
        write.remote(out.sink, i, block, schema(config), *piece)
        for i, (block, piece) in enumerate(zip(blocks, pieces, strict=True))
    ]
    out.add(cluster.gather(written))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    out.write_bytes("vectors.npz", buffer.getvalue())
    out.count(rows_in=reviews.rows())


def names(config: EmbeddingsConfig) -> list[str]:
    """Return the names of a vector's columns."""
    return [f"emb_{i}" for i in range(config.dimensions)]


def schema(config: EmbeddingsConfig) -> pa.Schema:
    return pa.schema(
        [
            pa.field("review_id", pa.string(), nullable=False),
            *(pa.field(name, pa.float32()) for name in names(config)),
            pa.field("segment", pa.int32()),
        ]
    )


def embed_file(files: FilePair, model: review_vectors.Vectors) -> pa.Table:
    """Embed one file of reviews: `review_id`, `user_id`, `ms` and the vectors."""
    reviews = pq.ParquetFile(files[0]).read(columns=["review_id", "user_id"])
    table = reviews.append_column("ms", pa.array(timestamps_ms(files[0])))
    for i, column in enumerate(model.of(read_ids(files[1])).T):
        table = table.append_column(f"emb_{i}", pa.array(column, from_pandas=True))  # NaN is null
    return table


def write_file(sink: FileSink, index: int, block: pa.Table, schema: pa.Schema, *pieces: pa.Table) -> FileEntry:
    """Write one file. pieces: (row, segment) of its rows; none without segments."""
    segment = pa.nulls(block.num_rows, pa.int32())
    if pieces:
        segment = pa.concat_tables(pieces).sort_by("row")["segment"]
    return sink.write_table(part_name(index), block.append_column("segment", segment), schema)
