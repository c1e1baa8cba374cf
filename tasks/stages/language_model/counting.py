"""Count n-grams by period: the MapReduce job of the stage `language-model`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from tasks.core.snapshot_files import FileEntry, FileSink, part_name
from tasks.parallel.mapreduce_job import Job
from tasks.stages.language_model import ngrams
from tasks.stages.language_model.chunks import FilePair, read_chunks
from tasks.stages.language_model.ngrams import NGRAMS, Array
from tasks.stages.language_model.settings import LanguageModelConfig

GRAMS = ("unigrams", "bigrams", "trigrams")


def counting(sink: FileSink, config: LanguageModelConfig, cuts: Sequence[int], every: int = 1) -> Job:
    """Return the job that counts the n-grams of one in `every` reviews of pairs of files; it results in `Part`s.

    A record has a gram, a period and a class: most grams are rare, and occur in few periods. All records of a gram go
    to the same reducer.
    """
    return Job(
        map=partial(count_file, order=config.order, cuts=np.array(cuts), every=every),
        key=("key",),
        combine=ngrams.add,
        reduce=partial(write_part, sink, config),
        partition=ngrams.partition,
        unique=True,
    )


def count_file(files: FilePair, order: int, cuts: Array, every: int = 1) -> Iterator[pa.Table]:
    """Yield the n-gram RECORDS of one file, chunk by chunk."""
    for chunk in read_chunks(files, cuts, every):
        grams = ngrams.packed(chunk.tokens, chunk.lengths, order)
        yield ngrams.count(grams, chunk.by_token(chunk.period), chunk.by_token(chunk.high))


@dataclass(frozen=True)
class Part:
    """One partition of the counts. kept: (3,) grams of each length; tokens: (periods, 2), ALL and HIGH."""

    entry: FileEntry
    kept: Array
    tokens: Array


def write_part(sink: FileSink, config: LanguageModelConfig, partition: int, records: Iterator[pa.Table]) -> Part:
    """Write one partition, sorted by gram and period, without the grams that are too rare."""
    kept, tokens = np.zeros(len(GRAMS), dtype=np.int64), np.zeros((config.periods, 2), dtype=np.int64)

    def common() -> Iterator[pa.Table]:
        for keys, counts in whole_grams(records):
            columns = ngrams.by_period(keys, counts, config.min_count)
            gram, lengths = columns["gram"], ngrams.lengths(columns["gram"])
            np.add(kept, np.bincount(lengths[ngrams.starts(gram)], minlength=1 + len(GRAMS))[1:], out=kept)
            one = lengths == 1
            np.add.at(tokens, columns["period"][one], np.stack([columns["all"][one], columns["high"][one]], axis=1))
            yield pa.table(columns, schema=NGRAMS)

    return Part(sink.write_batches(part_name(partition, "ngrams"), common(), NGRAMS), kept, tokens)


def whole_grams(records: Iterator[pa.Table]) -> Iterator[tuple[Array, Array]]:
    """Yield sorted keys and their counts again, cut so that all records of a gram come together."""
    held = np.zeros((2, 0), dtype=np.int64)
    for table in records:
        held = np.concatenate([held, np.stack([table["key"].to_numpy(), table["count"].to_numpy()])], axis=1)
        gram = held[0] >> ngrams.PERIOD_BITS + 1
        whole = int(np.searchsorted(gram, gram[-1]))  # the last gram may go on in the next table
        yield held[0, :whole], held[1, :whole]
        held = held[:, whole:]
    yield held[0], held[1]
