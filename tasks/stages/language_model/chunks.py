"""Read reviews and their tokens, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.errors import RunError
from tasks.parallel.time_borders import timestamps_ms
from tasks.stages.language_model.ngrams import Array

HIGH_STARS = 4
READ_ROWS = 16_384  # token lists read at once
CHUNK_TOKENS = 1 << 19  # tokens counted or scored at once; each takes some 200 bytes
FilePair = tuple[Path, Path]  # a file of reviews and the file of its tokens, row by row


@dataclass(frozen=True)
class Chunk:
    """Some reviews. tokens: (T,); lengths, period, high (0 or 1): (reviews,)."""

    tokens: Array
    lengths: Array
    period: Array
    high: Array

    def by_token(self, column: Array) -> Array:
        return np.repeat(column, self.lengths)

    def means(self, values: Array, known: Array) -> Array:
        """Average values (T,) over each review's tokens; NaN for a review without tokens or not `known` (reviews,)."""
        sums = np.bincount(self.by_token(np.arange(len(known))), values, minlength=len(known))
        means: Array = np.divide(sums, self.lengths, out=np.full(len(known), np.nan), where=known & (self.lengths > 0))
        return means


def read_chunks(files: FilePair, cuts: Array, every: int = 1) -> Iterator[Chunk]:
    """Yield the reviews in rows 0, every, 2 every, ... of a file, in chunks of about CHUNK_TOKENS tokens.

    A longer review is a chunk of its own. cuts: (periods - 1,) ms, where each period but the first begins.
    """
    period = np.searchsorted(cuts, timestamps_ms(files[0]), side="right")
    stars = pq.ParquetFile(files[0]).read(columns=["rating"])["rating"].to_numpy()
    high = (stars >= HIGH_STARS).astype(np.int64)
    row = 0
    for batch in pq.ParquetFile(files[1]).iter_batches(batch_size=READ_ROWS, columns=["input_ids"]):
        ids, rows = batch.column(0), np.arange(row, row + len(batch))
        row += len(batch)
        if row > len(period):
            break
        if every > 1:
            rows = rows[-rows[0] % every :: every]
            ids = ids.take(pa.array(rows - row + len(batch)))
        yield from chunks_of(ids, period[rows], high[rows])
    if row != len(period):
        raise RunError(f"{row:,} rows of tokens for {len(period):,} reviews", where=str(files[1]))


def chunks_of(ids: pa.ListArray, period: Array, high: Array) -> Iterator[Chunk]:
    """Cut n reviews into chunks of about CHUNK_TOKENS tokens. period, high: (n,)."""
    ends, tokens = ids.offsets.to_numpy().astype(np.int64), ids.values.to_numpy()
    start = 0
    while start < len(ids):
        stop = int(np.searchsorted(ends, ends[start] + CHUNK_TOKENS, side="right")) - 1
        stop = min(max(stop, start + 1), len(ids))
        here = slice(start, stop)
        yield Chunk(tokens[ends[start] : ends[stop]], np.diff(ends[start : stop + 1]), period[here], high[here])
        start = stop
