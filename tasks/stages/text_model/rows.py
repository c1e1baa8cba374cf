"""The rows of a rank: reviews with their times, tokens and answers, read by Ray Data, checked, and held in memory.

A review's answers are those of OUTPUTS: more than 1, 2, 3 and 4 stars (0 or 1), its stars, and the share of its votes
that are helpful. So one model serves every target.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.core.errors import RowsLost
from tasks.domain.targets import TARGETS, labels
from tasks.parallel.time_borders import timestamps_ms
from tasks.parallel.token_matrix import FilePair

STARS = (1, 2, 3, 4)  # the questions: more stars than these
OUTPUTS = (*(f"above_{stars}" for stars in STARS), "stars", "helpful")
SCORES = tuple(f"deep_{name}" for name in OUTPUTS)  # columns of the stage's table
MODEL_FILES = WEIGHTS, ABOUT = "text_model.safetensors", "text_model.json"
MIDDLE, SPREAD = 3.0, 2.0  # the model learns (stars - MIDDLE) / SPREAD: -1 to 1
ROWS = pa.schema(
    [
        ("row", pa.int64()),  # of all reviews, in the order of the files
        ("ms", pa.int64()),
        ("tokens", pa.list_(pa.int32())),
        ("rating", pa.float32()),
        ("helpful", pa.float32()),  # null where a review has too few votes
    ]
)
Array = NDArray[Any]


def files_of(files: Sequence[FilePair]) -> list[dict[str, Any]]:
    """Return a record for each pair of files: their names, and the number of their first row."""
    sizes = [pq.read_metadata(reviews).num_rows for reviews, _ in files]
    starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    return [
        {"reviews": str(reviews), "tokens": str(tokens), "start": start}
        for (reviews, tokens), start in zip(files, starts[:-1], strict=True)
    ]


def read_rows(batch: dict[str, Array], *, rank: int, world_size: int, max_tokens: int, min_votes: int) -> pa.Table:
    """Read the rows rank, rank + world_size, ... of all rows from the one pair of files in a batch: a table of ROWS."""
    reviews, tokens = Path(str(batch["reviews"][0])), Path(str(batch["tokens"][0]))
    start = int(batch["start"][0])
    known = pq.ParquetFile(reviews).read(columns=["rating", "helpful_votes", "total_votes"])
    row = start + np.arange(known.num_rows)
    mine = np.flatnonzero(row % world_size == rank)
    ids = pq.ParquetFile(tokens).read(columns=["input_ids"])["input_ids"].combine_chunks().take(pa.array(mine))
    helpful = labels(known, TARGETS["helpful"], min_votes)
    table = pa.table(
        {
            "row": row[mine],
            "ms": timestamps_ms(reviews)[mine],
            "tokens": shortened(ids, max_tokens),
            "rating": known["rating"].take(pa.array(mine)),
            "helpful": helpful.take(pa.array(mine)),
        }
    )
    return table.cast(ROWS)


def shortened(ids: pa.ListArray, most: int) -> pa.ListArray:
    """Cut the middle out of lists of more than `most` ids, as `both_ends` does: the title is at the beginning, and what
    the review comes to often at the end."""
    offsets = ids.offsets.to_numpy().astype(np.int64)
    lengths = np.diff(offsets)
    kept = np.minimum(lengths, most)
    ends = np.cumsum(kept)
    place = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - kept, kept)  # in its list
    skipped = np.where(place < most - most // 2, 0, np.repeat(lengths - kept, kept))
    values = ids.values.to_numpy()[np.repeat(offsets[:-1], kept) + place + skipped]
    return pa.ListArray.from_arrays(pa.array(np.append(0, ends), pa.int32()), pa.array(values))


def both_ends(row: Array, most: int) -> Array:
    """Return the first and the last ids of a review, `most` in all."""
    return row if len(row) <= most else np.concatenate([row[: most - most // 2], row[len(row) - most // 2 :]])


def check_part(numbers: Array, rank: int, world_size: int, total: int, *, unit: str, stage: str) -> None:
    """Raise RowsLost unless these are a rank's part of `total`, each once: rank, rank + world_size, ..."""
    if not np.array_equal(numbers, np.arange(rank, total, world_size)):
        raise RowsLost(
            f"rank {rank} of {world_size} got {len(numbers):,} {unit}, {len(np.unique(numbers)):,} of them different, "
            f"of its part of {total:,}",
            where=stage,
            fix="this is a bug in the stage; please report it with the input",
        )


@dataclass(frozen=True)
class Rows:
    """A rank's rows, in row order. row, ms: (n,). tokens: all ids, of which row i has offsets[i] to offsets[i + 1].
    answers: (n, OUTPUTS) float32, NaN where one is not known."""

    row: Array
    ms: Array
    tokens: Array
    offsets: Array
    answers: Array

    @classmethod
    def of(cls, tables: Iterable[pa.Table], rank: int, world_size: int, total: int) -> Rows:
        """Put tables of ROWS together. Raises RowsLost unless they are the rank's part of `total` rows, each once."""
        table = pa.concat_tables([ROWS.empty_table(), *(t.cast(ROWS) for t in tables)]).sort_by("row")
        row = table["row"].to_numpy()
        check_part(row, rank, world_size, total, unit="rows", stage="text-model")
        ids = table["tokens"].combine_chunks()
        offsets = ids.offsets.to_numpy().astype(np.int64)
        stars = table["rating"].to_numpy()
        answers = [*(stars > s for s in STARS), (stars - MIDDLE) / SPREAD, table["helpful"].to_numpy()]
        return cls(
            row,
            table["ms"].to_numpy(),
            ids.values.to_numpy()[offsets[0] : offsets[-1]],
            offsets - offsets[0],
            np.stack(answers, axis=1).astype(np.float32),
        )

    def __len__(self) -> int:
        return len(self.row)

    def with_ids(self, folds: Array) -> Rows:
        """Return the rows with the ids that stand for theirs. folds: (vocabulary,)."""
        return replace(self, tokens=folds[self.tokens])

    @property
    def lengths(self) -> Array:
        """(n,) tokens of each row."""
        return np.diff(self.offsets)

    def ids(self, place: int) -> Array:
        """Return a row's tokens."""
        return self.tokens[self.offsets[place] : self.offsets[place + 1]]

    def padded(self, places: Array, filler: int) -> tuple[Array, Array]:
        """Return the ids (m, T) int64 and the mask (m, T) of these rows, T the length of the longest; at least 1.

        A row without tokens gets one, the filler, as if it were a text of it alone.
        """
        return pad([self.ids(i) for i in places], filler)


def pad(rows: Sequence[Array], filler: int, length: int = 1) -> tuple[Array, Array]:
    """Return ids (m, T) int64 and mask (m, T) bool of m arrays of ids; T: the longest of them, at least `length`."""
    sizes = np.array([max(1, len(row)) for row in rows], dtype=np.int64)
    tokens = np.full((len(rows), max(length, int(sizes.max(initial=1)))), filler, dtype=np.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    mask: Array = np.arange(tokens.shape[1]) < sizes[:, None]
    return tokens, mask


def scores_of(outputs: Array) -> Array:
    """Turn a model's outputs (n, OUTPUTS) into answers, float32: probabilities, stars, and a share."""
    answers: Array = (1 / (1 + np.exp(-outputs.astype(np.float64)))).astype(np.float32)
    stars = OUTPUTS.index("stars")
    answers[:, stars] = MIDDLE + SPREAD * outputs[:, stars]
    return answers
