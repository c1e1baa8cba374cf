"""Write the data files of a snapshot, here or in a Ray task, and describe each for the manifest."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from tasks.core import faults
from tasks.core.digests import file_sha256

ROW_GROUP_ROWS = 65_536


DRAFT = ".draft"  # the ending of files that are being written


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(Record):
    """One data file: name relative to the attempt folder, size in bytes, rows (None unless parquet), hex sha256."""

    name: str
    size: int
    rows: int | None
    sha256: str

    @property
    def table(self) -> str:
        return self.name.rpartition("/")[0]


@dataclass(frozen=True)
class FileSink:
    """Writes data files into an attempt folder. Small and picklable: each Ray worker has one."""

    root: str

    def write_table(
        self,
        name: str,
        table: pa.Table,
        schema: pa.Schema | None = None,
        *,
        packed: bool = True,
        dictionary: Sequence[str] | None = None,
        split_bytes: Sequence[str] = (),
    ) -> FileEntry:
        """Write one parquet file with fixed writer settings, fsync it, and read it back for the sha256.

        `packed=False` is for hashes and the like, which do not compress. `dictionary` names the columns to encode with
        one (default: all); on texts that are nearly all different it costs a sixth of the time and saves nothing.
        `split_bytes` names list columns of small integers (token ids): byte-stream split halves their time and saves
        space.
        """
        if schema is not None:
            table = table.select(schema.names).cast(schema)
        table = table.replace_schema_metadata(None)
        encoding = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in split_bytes}

        def write(file: IO[bytes]) -> int:
            if packed:
                pq.write_table(
                    table,
                    file,
                    row_group_size=ROW_GROUP_ROWS,
                    compression="zstd",
                    compression_level=1,
                    use_dictionary=True if dictionary is None else list(dictionary),
                    column_encoding=encoding or None,
                )
            else:
                pq.write_table(table, file, row_group_size=ROW_GROUP_ROWS, compression="none", use_dictionary=False)
            return int(table.num_rows)

        return self._write(name, write)

    def write_batches(self, name: str, tables: Iterable[pa.Table], schema: pa.Schema) -> FileEntry:
        """Write one parquet file from a stream of tables, with one row group in memory at a time.

        The bytes depend on the rows alone, not on how tables divide them.
        """

        def write(file: IO[bytes]) -> int:
            rows = 0
            with pq.ParquetWriter(file, schema, compression="zstd", compression_level=1) as writer:
                for group in _row_groups(tables, schema):
                    writer.write_table(group, row_group_size=ROW_GROUP_ROWS)
                    rows += group.num_rows
            return rows

        return self._write(name, write)

    def write_bytes(self, name: str, data: bytes) -> FileEntry:
        """Write any other file (a model, a page, a picture)."""

        def write(file: IO[bytes]) -> None:
            file.write(data)

        return self._write(name, write)

    def _write(self, name: str, write: Callable[[IO[bytes]], int | None]) -> FileEntry:
        """Write, sync and hash a draft, then rename it; `write` returns the rows.

        A draft, because a worker presumed dead may still be writing the same file.
        """
        path = self._path(name)
        draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}{DRAFT}")
        try:
            with draft.open("wb") as file:
                rows = write(file)
                faults.point("files", "written")
                fsync(file)
            entry = FileEntry(name=name, size=draft.stat().st_size, rows=rows, sha256=file_sha256(draft))
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        return entry

    def entry(self, name: str, rows: int | None = None) -> FileEntry:
        """Return the entry of an existing file, written by one process or by several, each its own range."""
        path = self._path(name)
        with path.open("rb") as file:
            fsync(file)
        return FileEntry(name=name, size=path.stat().st_size, rows=rows, sha256=file_sha256(path))

    def _path(self, name: str) -> Path:
        path = Path(self.root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _row_groups(tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """Regroup the rows of all tables, ROW_GROUP_ROWS at a time; the last group may have fewer, and none is empty."""
    waiting: list[pa.Table] = []
    waiting_rows = 0
    for table in tables:
        waiting.append(table.select(schema.names).cast(schema).replace_schema_metadata(None))
        waiting_rows += table.num_rows
        while waiting_rows >= ROW_GROUP_ROWS:
            together = pa.concat_tables(waiting)
            yield together.slice(0, ROW_GROUP_ROWS).combine_chunks()
            waiting, waiting_rows = [together.slice(ROW_GROUP_ROWS)], waiting_rows - ROW_GROUP_ROWS
    if waiting_rows:
        yield pa.concat_tables(waiting).combine_chunks()


def part_name(index: int, table: str = "", block: int | None = None) -> str:
    """Return the file name of a table's index-th part, or of one of its blocks; names sort in row order."""
    name = f"part-{index:05d}" + ("" if block is None else f"-{block:04d}")
    return f"{table}/{name}.parquet" if table else f"{name}.parquet"


def linked(source: Path, target: Path, size: int) -> bool:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        return False
    except OSError:  # another device, or a file system without links
        shutil.copyfile(source, target)
    return target.stat().st_size == size


def fsync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
