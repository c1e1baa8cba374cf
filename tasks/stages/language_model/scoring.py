"""Score reviews by the n-gram counts of earlier periods, in Ray tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.snapshot_files import FileEntry, FileSink, part_name
from tasks.engines import cluster
from tasks.stages.language_model import ngrams
from tasks.stages.language_model.chunks import Chunk, FilePair, read_chunks
from tasks.stages.language_model.counting import Part
from tasks.stages.language_model.ngrams import ALL, BITS, HIGH, NGRAMS, Array, Counts, Known
from tasks.stages.language_model.settings import LanguageModelConfig

SCORES = pa.schema(
    [
        pa.field("review_id", pa.string(), nullable=False),
        pa.field("lm_surprise", pa.float32()),
        pa.field("lm_high", pa.float32()),
    ]
)


@dataclass(frozen=True)
class Model:
    """cuts: (periods - 1,) ms; tokens: (periods, 2) counted in earlier periods, ALL and HIGH."""

    cuts: Array
    tokens: Array
    config: LanguageModelConfig

    @classmethod
    def of(cls, counted: Sequence[Part], cuts: Sequence[int], config: LanguageModelConfig) -> Model:
        tokens = np.sum([part.tokens for part in counted], axis=0)
        return cls(np.array(cuts), np.cumsum(tokens, axis=0) - tokens, config)


def score_files(
    files: Sequence[FilePair],
    counts: Sequence[Path],
    model: Model,
    sink: FileSink,
    on_scored: Callable[[int], None],
) -> list[FileEntry]:
    """Score all files, each in a Ray task; a node's tasks share the counts in memory. on_scored gets a file's rows."""
    import ray

    read, score = ray.remote(read_counts), ray.remote(_score_file)
    unigrams = ray.remote(read_unigrams).remote(counts)
    parts = [read.remote(file, model.config.min_count) for file in counts]
    shared = ray.put(model)
    waiting = {score.remote(sink, index, pair, shared, unigrams, parts): index for index, pair in enumerate(files)}
    entries: dict[int, FileEntry] = {}
    while waiting:
        for done in ray.wait(list(waiting))[0]:
            index = waiting.pop(done)
            entries[index] = cluster.gather([done])[0]
            on_scored(entries[index].rows or 0)
    return [entries[index] for index in range(len(files))]


def read_known(files: Sequence[Path], min_count: int) -> Known:
    """Read the counts of all partitions into this process."""
    return Known(read_unigrams(files), [read_counts(file, min_count) for file in files], len(files))


def read_unigrams(files: Sequence[Path]) -> Array:
    """Return the unigrams of all partitions (`Known.unigrams`)."""
    tables = [pq.read_table(file, filters=pc.field("gram") < 1 << BITS) for file in files]
    return ngrams.unigrams(*_columns(pa.concat_tables([NGRAMS.empty_table(), *tables])))


def read_counts(file: Path, min_count: int) -> Counts:
    """Read the bigrams and trigrams of one partition into an index."""
    table = pq.ParquetFile(file).read()
    shortest = np.searchsorted(table["gram"].to_numpy(), 1 << BITS)
    return Counts(*_columns(table.slice(shortest)), min_count=min_count)


def _columns(table: pa.Table) -> list[Array]:
    return [table[name].to_numpy() for name in NGRAMS.names]


def _score_file(
    sink: FileSink, index: int, files: FilePair, model: Model, unigrams: Array, parts: Sequence[Any]
) -> FileEntry:
    return score_file(sink, index, files, model, Known(unigrams, _Held(parts), len(parts)))


@dataclass(frozen=True)
class _Held:
    """Parts in Ray's shared memory, one of them mapped at a time."""

    parts: Sequence[Any]

    def __iter__(self) -> Iterator[Counts]:
        return (cluster.gather([part])[0] for part in self.parts)


def score_file(sink: FileSink, index: int, files: FilePair, model: Model, known: Known) -> FileEntry:
    """Score the reviews of one file."""
    ids = pq.ParquetFile(files[0]).read(columns=["review_id"])["review_id"]
    scores = [np.zeros((2, 0)), *(score_chunk(chunk, model, known) for chunk in read_chunks(files, model.cuts))]
    surprise, high = (pa.array(column, from_pandas=True) for column in np.concatenate(scores, axis=1))
    columns = {"review_id": ids, "lm_surprise": surprise, "lm_high": high}
    return sink.write_table(part_name(index), pa.table(columns), SCORES)


def score_chunk(chunk: Chunk, model: Model, known: Known) -> Array:
    """Return (2, reviews): `lm_surprise` and `lm_high`, NaN where a review has none."""
    backoff = model.config.backoff
    grams = ngrams.packed(chunk.tokens, chunk.lengths, model.config.order)
    times = known.before(grams, chunk.by_token(chunk.period))
    high, low = times[..., HIGH], times[..., ALL] - times[..., HIGH]
    total, total_high = model.tokens[chunk.period].T
    total_low = total - total_high

    likely = ngrams.surprise(times[..., ALL], chunk.by_token(total), grams, backoff)
    leaning = ngrams.leaning(high, chunk.by_token(total_high), grams, likely)
    leaning -= ngrams.leaning(low, chunk.by_token(total_low), grams, likely)
    return np.stack(
        [chunk.means(-np.log2(likely[-1]), total > 0), chunk.means(leaning, (total_high > 0) & (total_low > 0))]
    )
