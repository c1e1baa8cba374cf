"""Count the words of the clean reviews, by a MapReduce of actors.

It counts title and text: words, which are runs of letters, digits and underscores with inner apostrophes ("don't"), in
lower case; or GPT-2's pre-tokens, unchanged. With `ngrams` 2 or 3 it also counts pairs and triples of neighbours,
joined by a space ("\\x1f" between GPT-2 pieces, which contain spaces).

Out: one file per reducer partition, sorted by token; the token alone decides its file. Columns: `token`, `n`, `count`,
`documents` (reviews that contain it), `rating_1` to `rating_5` (`count` by the stars of the review) and `first_seen`
(the time of the earliest review that contains it).

    raymill run --until count-words
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from tasks.algorithms import pretokens
from tasks.core.part_files import scan_parts
from tasks.core.sections import Positive, Section
from tasks.core.snapshot_files import FileEntry, FileSink, part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.domain.schemas import COUNTS_BY_RATING, WORD_COUNTS
from tasks.engines import cluster
from tasks.parallel import mapreduce
from tasks.parallel.mapreduce_job import Job

Split = Callable[[pl.Series], pretokens.Pieces]
Rows = tuple[Path, int, int]  # a file of reviews, the first row and the number of rows
INPUT_ROWS = 32_768  # of one input: files are few, and their number is seldom a multiple of the mappers'
CHUNK_BYTES = 8 << 20  # of text counted at once: bounds the arrays in memory
SUMS = ("count", "documents", *COUNTS_BY_RATING)


class CountWordsConfig(Section):
    splitting: Literal["words", "gpt2"]
    ngrams: Annotated[int, Field(ge=1, le=3)]
    reducers: Positive
    spill_mb: Positive


@stage(version=2, config=CountWordsConfig, unit="words", libraries=("pyarrow", "polars", "numpy"))
def count_words(reviews: Snapshot, config: CountWordsConfig, out: SnapshotWriter) -> None:
    job = Job(
        map=partial(count_rows, config=config),
        key=("token",),
        combine=add_counts,
        reduce=partial(write_part, out.sink),
        unique=True,
    )
    inputs = [
        (file, start, min(INPUT_ROWS, rows - start))
        for file, entry in zip(reviews.files(), reviews.entries(), strict=True)
        if (rows := entry.rows or 0)
        for start in range(0, rows, INPUT_ROWS)
    ]
    done = 0

    def mapped(index: int) -> None:
        nonlocal done
        done += inputs[index][2]
        out.progress(done, reviews.rows())

    actors = cluster.cpus()
    written = mapreduce.run(
        job,
        inputs,
        partitions=config.reducers,
        mappers=actors,
        reducers=actors,
        spill_bytes=config.spill_mb << 20,
        on_mapped=mapped,
    )
    out.add(entry for entry, _ in written)
    out.count(documents=reviews.rows(), tokens=out.rows(), words=sum(words for _, words in written))
    out.fact(splitting=config.splitting, ngrams=config.ngrams)


@cache
def splitter(splitting: str) -> Split:
    """Return the function that splits texts into "words" or "gpt2" pieces, the same one each time: it holds the class
    of every character that it has met."""
    if splitting == "gpt2":
        return partial(pretokens.gpt2_pieces, classes=pretokens.Classes(pretokens.GPT2_CLASSES))
    classes = pretokens.Classes(pretokens.WORD_CLASSES)
    return lambda texts: pretokens.words(texts.str.to_lowercase(), classes)


def title_and_text(reviews: pl.DataFrame) -> pl.Series:
    """Return each review's title, a newline and its text."""
    return (reviews["title"] + "\n" + reviews["text"]).alias("title_and_text")


def count_rows(rows: Rows, config: CountWordsConfig) -> Iterator[pa.Table]:
    """Count some rows of a file, one chunk of texts at a time; yield WORD_COUNTS tables without repeated tokens."""
    file, start, length = rows
    columns = scan_parts([file]).select("title", "text", "timestamp", "rating")
    reviews = columns.slice(start, length).collect()
    stars = (reviews["rating"].to_numpy() + 0.5).astype(np.int64).clip(1, 5)
    times, texts = reviews["timestamp"].dt.epoch("ms").to_numpy(), title_and_text(reviews)
    split = splitter(config.splitting)
    for chunk in pretokens.chunks(texts, CHUNK_BYTES):
        yield from count_texts(split(texts[chunk]), stars[chunk], times[chunk], config)


def count_texts(
    cut: pretokens.Pieces, stars: NDArray[Any], times: NDArray[Any], config: CountWordsConfig
) -> Iterator[pa.Table]:
    """Count the pieces of n texts and their n-grams; yield one table per length. stars, times (ms): (n,)."""
    order = np.argsort(times, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    by_age = stars[order], times[order]
    row = np.repeat(rank, cut.counts)  # texts in order of time: a token's first row is its earliest
    encoded = cut.text.dictionary_encode()
    token, code = encoded.dictionary, encoded.indices.to_numpy().astype(np.int64)
    yield _counted(1, token, code, row, *by_age)

    between = pa.scalar(" " if config.splitting == "words" else "\x1f", pa.large_string())
    gram = code  # the number of the n-gram that begins at each place, if one does
    for n in range(2, config.ngrams + 1):
        place = np.flatnonzero(row[: 1 - n] == row[n - 1 :])  # no n-gram spans two texts
        longer, number = np.unique(gram[place] * len(encoded.dictionary) + code[place + n - 1], return_inverse=True)
        shorter, last = np.divmod(longer, len(encoded.dictionary))
        token = pc.binary_join_element_wise(
            token.take(pa.array(shorter)), encoded.dictionary.take(pa.array(last)), between
        )
        gram = np.zeros_like(code)
        gram[place] = number
        yield _counted(n, token, number, row[place], *by_age)


def _counted(
    n: int, token: pa.Array, code: NDArray[Any], row: NDArray[Any], stars: NDArray[Any], times: NDArray[Any]
) -> pa.Table:
    """Return WORD_COUNTS of the tokens `token[code]`, which occur in texts `row`. stars, times: of each text."""
    size, row_bits = len(token), max(len(stars) - 1, 1).bit_length()
    small = size << row_bits <= 1 << 32  # half the memory to sort and scan
    dtype: Any = np.uint32 if small else np.uint64
    pairs = np.sort(code.astype(dtype) << dtype(row_bits) | row.astype(dtype))
    new = np.ones(len(pairs), dtype=bool)
    new[1:] = pairs[1:] != pairs[:-1]
    code, row = (pairs >> dtype(row_bits)).astype(np.int64), pairs & dtype((1 << row_bits) - 1)
    by_rating = np.bincount(code * 5 + stars[row] - 1, minlength=5 * size).reshape(size, 5)
    begins = np.searchsorted(code, np.arange(size))
    columns = {
        "token": token,
        "n": pa.array(np.full(size, n, dtype=np.int8)),
        "count": by_rating.sum(axis=1),
        "documents": np.add.reduceat(new, begins, dtype=np.int64) if size else begins,
        **{name: by_rating[:, i] for i, name in enumerate(COUNTS_BY_RATING)},
        "first_seen": pa.array(times[row[begins]], type=pa.timestamp("ms", tz="UTC")),
    }
    return pa.table(columns).cast(WORD_COUNTS)


def add_counts(records: pa.Table) -> pa.Table:
    merged = (
        pl.DataFrame(pl.from_arrow(records))
        .group_by("token")
        .agg(pl.col("n").first(), pl.col(SUMS).sum(), pl.col("first_seen").min())
    )
    return merged.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(WORD_COUNTS)


def write_part(sink: FileSink, partition: int, records: Iterator[pa.Table]) -> tuple[FileEntry, int]:
    """Write one partition, sorted by token; return its file and its total count of single words (n = 1)."""
    words = 0

    def counting() -> Iterator[pa.Table]:
        nonlocal words
        for table in records:
            words += pc.sum(table.filter(pc.field("n") == 1)["count"]).as_py() or 0
            yield table

    return sink.write_batches(part_name(partition), counting(), WORD_COUNTS), words
