"""What the tasks of a merge sort do: sample a block, sort and cut it, merge a partition. No Ray in here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from tasks.core.errors import RunError
from tasks.parallel.sort_order import Order
from tasks.parallel.sorted_runs import Splitters, ends, merge, runs

SAMPLES = 2048  # keys that each block sends: with 16 blocks partitions differ by some percent
BLOCK_PLACES = 1 << 40  # a row's place is its block's number times this, and its number in the block


class Part(NamedTuple):
    """What one block has for one partition: the slices of its runs, and how many rows each has."""

    rows: pa.Table
    lengths: list[int]


class Spilled(NamedTuple):
    """A part in a file, from `offset` on."""

    file: Path
    offset: int
    lengths: list[int]

    def read(self) -> Part:
        with pa.OSFile(str(self.file)) as source:
            source.seek(self.offset)
            return Part(pa.ipc.open_stream(source).read_all(), self.lengths)


def sample(block: int, table: pa.Table, order: Order) -> Splitters:
    """Take rows at even distances. Raises InputError for a key that has no order."""
    order.check(table.schema)
    chosen = np.linspace(0, table.num_rows - 1, min(SAMPLES, table.num_rows)).astype(np.int64)
    keys = table.select(list(dict.fromkeys(order.by))).take(chosen)
    return Splitters(keys, block * BLOCK_PLACES + chosen)


def cut(block: int, table: pa.Table, order: Order, cuts: Splitters, partitions: int) -> Iterable[Part]:
    """Sort a block's runs and cut each at the splitters. Yields its part of each partition."""
    slices: list[list[pa.Table]] = [[] for _ in range(partitions)]
    place = block * BLOCK_PLACES
    for run in runs(table, order):
        # Without samples there are no splitters, and no rows.
        edges = [0, *ends(run, place, cuts, order), *[run.num_rows] * (partitions - len(cuts.places))]
        place += run.num_rows
        for part, (start, stop) in zip(slices, pairwise(edges), strict=True):
            part.append(run.slice(start, stop - start))
    for part in slices:
        rows = pa.concat_tables([table.schema.empty_table(), *part]).unify_dictionaries().combine_chunks()
        yield Part(rows, [piece.num_rows for piece in part])


def merged(order: Order, parts: Sequence[Part]) -> pa.Table:
    """Merge what all blocks have for one partition."""
    slices = []
    for part in parts:
        starts = np.cumsum([0, *part.lengths])[:-1]
        slices += [part.rows.slice(start, n) for start, n in zip(starts, part.lengths, strict=True)]
    return merge(slices or [parts[0].rows], order)


def spilled(file: Path, parts: Iterable[Part]) -> list[Spilled]:
    """Write parts to one file. Raises RunError if the disk is full."""
    begun, places = file.with_suffix(f".{os.getpid()}"), []
    try:
        with pa.OSFile(str(begun), "wb") as sink:
            for part in parts:
                places.append(Spilled(file, sink.tell(), part.lengths))
                with pa.ipc.new_stream(sink, part.rows.schema) as writer:
                    writer.write_table(part.rows)
    except OSError as error:
        raise RunError(f"cannot write sorted rows: {error}", where=str(file.parent), fix="free space there") from error
    begun.rename(file)
    return places
