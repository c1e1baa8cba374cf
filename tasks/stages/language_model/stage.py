"""Clean reviews and their tokens in, how unusual and how approving each review's wording is out.

Time is cut into `periods` with as many reviews each. A review is scored by the n-grams of all earlier periods, and by
nothing else: no score knows its own review or a later one (prequential evaluation; Dawid, 1984). Counting is the second
use of `tasks.parallel.mapreduce`; what is made of the counts is in `tasks.stages.language_model.ngrams`.

Out: one file per file of reviews, in the same row order: `review_id` and

- `lm_surprise`: bits per token, the mean of -log2 of the stupid-backoff scores under the counts of earlier reviews;
- `lm_high`: the mean over tokens of log2 of how much likelier earlier reviews of four stars and more are than the
  others to say them where they stand.

Null without tokens, and where there is nothing earlier to compare with: in period 0, or no approving review, or no
other. Beside it the table `ngrams`: how often each gram occurred in each period, sorted by gram, which alone decides
its file; bigrams and trigrams met less than `min_count` times in all are left out.

    raymill run --until language-model
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from tasks.core.errors import SettingsError
from tasks.core.sections import Positive, Section
from tasks.core.snapshot_files import FileEntry, FileSink, part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.engines import cluster
from tasks.parallel import mapreduce
from tasks.parallel.mapreduce_job import Job
from tasks.parallel.time_borders import borders
from tasks.stages.language_model import ngrams
from tasks.stages.language_model.chunks import Chunk, FilePair, read_chunks
from tasks.stages.language_model.ngrams import ALL, HIGH, NGRAMS, Array, Counts

GRAMS = ("unigrams", "bigrams", "trigrams")

SCORES = pa.schema(
    [
        pa.field("review_id", pa.string(), nullable=False),
        pa.field("lm_surprise", pa.float32()),
        pa.field("lm_high", pa.float32()),
    ]
)


class LanguageModelConfig(Section):
    enabled: bool
    order: Annotated[int, Field(ge=1, le=3)]
    periods: Annotated[int, Field(ge=2, le=ngrams.MAX_PERIODS)]
    min_count: Positive
    backoff: Annotated[float, Field(gt=0, lt=1)]
    partitions: Positive
    spill_mb: Positive


@stage(version=1, config=LanguageModelConfig, libraries=("pyarrow", "polars", "numpy"))
def language_model(reviews: Snapshot, tokens: Snapshot, config: LanguageModelConfig, out: SnapshotWriter) -> None:
    out.side_table("ngrams")
    if not config.enabled:
        out.write_table(part_name(0), SCORES.empty_table(), SCORES)
        out.write_table(part_name(0, "ngrams"), NGRAMS.empty_table(), NGRAMS)
        return
    check_vocabulary(tokens.facts["vocabulary"])
    files = list(zip(reviews.files(), tokens.files(), strict=True))
    sizes = [entry.rows or 0 for entry in reviews.entries()]
    fractions = [k / config.periods for k in range(1, config.periods)]
    some = [file for file, rows in zip(reviews.files(), sizes, strict=True) if rows]  # an empty file has no times
    cuts = borders(some, fractions) if some else [0] * len(fractions)
    progress = _Progress(out, 2 * sum(sizes))  # each review is read twice

    actors = cluster.cpus()
    counted = mapreduce.run(
        counting(out.sink, config, cuts),
        files,
        partitions=config.partitions,
        mappers=actors,
        reducers=actors,
        spill_bytes=config.spill_mb << 20,
        on_mapped=lambda index: progress.add(sizes[index]),
    )
    out.add(part.entry for part in counted)
    model = Model.of(counted, cuts, config)
    said = sum(part.said for part in counted)
    kept = sum(part.kept for part in counted)
    out.count(rows_in=reviews.rows(), tokens=said[:, ALL].sum(), **dict(zip(GRAMS, kept, strict=True)))
    out.fact(borders=cuts, period_tokens=said[:, ALL].tolist(), period_tokens_high=said[:, HIGH].tolist())
    out.add(_score(files, [out.root / part.entry.name for part in counted], model, out.sink, progress))


def check_vocabulary(size: int) -> None:
    if size >= ngrams.ID_LIMIT:
        raise SettingsError(
            f"the tokenizer has {size:,} tokens; n-grams are counted of vocabularies below {ngrams.ID_LIMIT:,}",
            where="language_model",
            fix="give another tokenizer, or --set language_model.enabled=false",
        )


@dataclass
class _Progress:
    out: SnapshotWriter
    total: int
    done: int = 0

    def add(self, rows: int) -> None:
        self.done += rows
        self.out.progress(self.done, self.total, unit="rows read")


# Counting


def counting(sink: FileSink, config: LanguageModelConfig, cuts: Sequence[int]) -> Job:
    """The job that counts the n-grams of pairs of files; see `Part` for what it gives."""
    return Job(
        # A record is of a gram, a period and a class: most grams are rare, and met in few. All of a gram come to the
        # same reducer.
        map=partial(count_file, order=config.order, cuts=np.array(cuts)),
        key=("key",),
        combine=ngrams.add,
        reduce=partial(write_part, sink, config),
        partition=ngrams.partition,
        unique=True,
    )


def count_file(files: FilePair, order: int, cuts: Array) -> Iterator[pa.Table]:
    """Count the n-grams of one file: RECORDS, a chunk of reviews after the other."""
    for chunk in read_chunks(files, cuts):
        grams = ngrams.packed(chunk.tokens, chunk.lengths, order)
        yield ngrams.count(grams, chunk.by_token(chunk.period), chunk.by_token(chunk.high))


@dataclass(frozen=True)
class Part:
    """One partition of the counts. kept: (3,) grams of each length; said: (periods, 2) tokens, ALL and HIGH."""

    entry: FileEntry
    kept: Array
    said: Array


def write_part(sink: FileSink, config: LanguageModelConfig, partition: int, records: Iterator[pa.Table]) -> Part:
    """Write one partition, sorted by gram and period, without the grams that are too rare."""
    kept, said = np.zeros(len(GRAMS), dtype=np.int64), np.zeros((config.periods, 2), dtype=np.int64)

    def common() -> Iterator[pa.Table]:
        for keys, counts in whole_grams(records):
            columns = ngrams.by_period(keys, counts, config.min_count)
            gram, lengths = columns["gram"], ngrams.lengths(columns["gram"])
            np.add(kept, np.bincount(lengths[ngrams.starts(gram)], minlength=1 + len(GRAMS))[1:], out=kept)
            word = lengths == 1
            np.add.at(said, columns["period"][word], np.stack([columns["all"][word], columns["high"][word]], axis=1))
            yield pa.table(columns, schema=NGRAMS)

    return Part(sink.write_batches(part_name(partition, "ngrams"), common(), NGRAMS), kept, said)


def whole_grams(records: Iterator[pa.Table]) -> Iterator[tuple[Array, Array]]:
    """Yield sorted keys and their counts again, cut so that all records of a gram come together."""
    held = np.zeros((2, 0), dtype=np.int64)
    for table in records:
        held = np.concatenate([held, np.stack([table["key"].to_numpy(), table["count"].to_numpy()])], axis=1)
        gram = held[0] >> ngrams.PERIOD_BITS + 1
        whole = int(np.searchsorted(gram, gram[-1]))  # of the last gram there may be more to come
        yield held[0, :whole], held[1, :whole]
        held = held[:, whole:]
    yield held[0], held[1]


# Scoring


@dataclass(frozen=True)
class Model:
    """cuts: (periods - 1,) ms; said: (periods, 2) tokens in earlier periods, ALL and HIGH."""

    cuts: Array
    said: Array
    config: LanguageModelConfig

    @classmethod
    def of(cls, counted: Sequence[Part], cuts: Sequence[int], config: LanguageModelConfig) -> Model:
        said = np.sum([part.said for part in counted], axis=0)
        return cls(np.array(cuts), np.cumsum(said, axis=0) - said, config)


def _score(
    files: Sequence[FilePair], counts: Sequence[Path], model: Model, sink: FileSink, progress: _Progress
) -> list[FileEntry]:
    """Score all files in Ray tasks, one each. The counts are in shared memory, once for all tasks of a node."""
    import ray

    read, score = ray.remote(read_counts), ray.remote(_score_file)
    parts = [read.remote(file, model.config.min_count) for file in counts]
    shared = ray.put(model)
    waiting = {score.remote(sink, index, pair, shared, parts): index for index, pair in enumerate(files)}
    entries: dict[int, FileEntry] = {}
    while waiting:
        for done in ray.wait(list(waiting))[0]:
            index = waiting.pop(done)
            entries[index] = cluster.gather([done])[0]
            progress.add(entries[index].rows or 0)
    return [entries[index] for index in range(len(files))]


def read_counts(file: Path, min_count: int) -> Counts:
    """Read one partition of the counts, to be looked up."""
    columns = pq.ParquetFile(file).read()
    gram, period, every, high = (columns[name].to_numpy() for name in NGRAMS.names)
    return Counts(gram, period, every, high, min_count)


def _score_file(sink: FileSink, index: int, files: FilePair, model: Model, parts: Sequence[Any]) -> FileEntry:
    return score_file(sink, index, files, model, _Held(parts))


@dataclass(frozen=True)
class _Held:
    """Parts in Ray's shared memory, one of them mapped at a time."""

    parts: Sequence[Any]

    def __iter__(self) -> Iterator[Counts]:
        return (cluster.gather([part])[0] for part in self.parts)


def score_file(sink: FileSink, index: int, files: FilePair, model: Model, parts: Any) -> FileEntry:
    """Score the reviews of one file. parts: what gives the Counts of all partitions whenever it is iterated over."""
    ids = pq.ParquetFile(files[0]).read(columns=["review_id"])["review_id"]
    scores = [np.zeros((2, 0)), *(score_chunk(chunk, model, parts) for chunk in read_chunks(files, model.cuts))]
    surprise, high = (pa.array(column, from_pandas=True) for column in np.concatenate(scores, axis=1))
    columns = {"review_id": ids, "lm_surprise": surprise, "lm_high": high}
    return sink.write_table(part_name(index), pa.table(columns), SCORES)


def score_chunk(chunk: Chunk, model: Model, parts: Any) -> Array:
    """(2, reviews): `lm_surprise` and `lm_high`, NaN where a review has none."""
    backoff = model.config.backoff
    grams = ngrams.packed(chunk.tokens, chunk.lengths, model.config.order)
    times = ngrams.counts_before(grams, chunk.by_token(chunk.period), parts, model.config.partitions)
    high, low = times[..., HIGH], times[..., ALL] - times[..., HIGH]
    said, said_high = model.said[chunk.period].T
    said_low = said - said_high

    likely = ngrams.surprise(times[..., ALL], chunk.by_token(said), grams, backoff)
    leaning = ngrams.leaning(high, chunk.by_token(said_high), grams, likely)
    leaning -= ngrams.leaning(low, chunk.by_token(said_low), grams, likely)
    return np.stack(
        [chunk.means(-np.log2(likely[-1]), said > 0), chunk.means(leaning, (said_high > 0) & (said_low > 0))]
    )
