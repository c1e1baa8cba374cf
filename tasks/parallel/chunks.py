"""Chunks: small references to rows in parquet files, which a worker reads itself.

No table passes through the driver: it holds a chunk of a hundred bytes, and what a worker says of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.errors import InputError


@dataclass(frozen=True)
class Chunk:
    """Row groups `first` to `end` (not included) of a file. `bytes`: of their columns in the file, uncompressed."""

    index: int  # in row order, from 0
    file: str
    first: int
    end: int
    rows: int
    bytes: int

    def __str__(self) -> str:
        return f"chunk {self.index} ({Path(self.file).name}, row groups {self.first} to {self.end - 1})"


def chunks_of(files: Iterable[Path], rows: int, columns: Sequence[str] | None = None) -> list[Chunk]:
    """Cut files into chunks of whole row groups, about `rows` rows each; a file without rows has none.

    Reads the files' footers. A chunk has more than `rows` rows where a single row group has. `columns`: those that will
    be read, whose bytes count. Raises InputError for a file that is not parquet.
    """
    chunks: list[Chunk] = []
    for file in files:
        first, n, size = 0, 0, 0
        groups = _groups(file, columns)
        for group, (group_rows, group_bytes) in enumerate(groups):
            if n and n + group_rows > rows:
                chunks.append(Chunk(len(chunks), str(file), first, group, n, size))
                first, n, size = group, 0, 0
            n, size = n + group_rows, size + group_bytes
        if n:
            chunks.append(Chunk(len(chunks), str(file), first, len(groups), n, size))
    return chunks


def read_chunk(chunk: Chunk, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a chunk on the calling thread alone: Ray parallelises over processes."""
    groups = list(range(chunk.first, chunk.end))
    return _open(chunk.file).read_row_groups(groups, columns=_listed(columns), use_threads=False)


def _groups(file: Path, columns: Sequence[str] | None) -> list[tuple[int, int]]:
    """Return rows and bytes of each row group."""
    try:
        footer = pq.read_metadata(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"cannot be read as parquet: {error}", where=str(file)) from error
    wanted = [
        i
        for i in range(footer.num_columns)
        if columns is None or footer.schema.column(i).path.partition(".")[0] in columns
    ]
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    return [(g.num_rows, sum(g.column(i).total_uncompressed_size for i in wanted)) for g in groups]


# A worker's next chunk is mostly of the same file, whose footer may be as long as a small chunk.
@lru_cache(maxsize=2)
def _open(file: str) -> Any:
    return pq.ParquetFile(file)


def _listed(columns: Sequence[str] | None) -> list[str] | None:
    return None if columns is None else list(columns)
