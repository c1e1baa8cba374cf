"""External merge: merge keyed records that may outgrow memory, and read them back in key order.

Records wait in memory and are merged from time to time. On `spill` they go to disk as a *run*, sorted by key. At the
end the runs are merged into one sorted stream, with one batch of each in memory at a time (Knuth, The Art of Computer
Programming, volume 3, section 5.4.1): memory grows with the number of runs, not with the number of keys.

Order is ascending by the key columns. Strings compare by their UTF-8 bytes, which is by code point, as in Python. All
rows of a key are in one batch, in every run and in the output, so a reader needs only one batch at a time.
"""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa

from tasks.core.errors import RunError

Combine = Callable[[pa.Table], pa.Table]

FRESH_BYTES = 16 << 20  # new records are merged at this size: until then they may pin Ray's shared memory
FRESH_TABLES = 64  # or at this number of tables: a table costs some KiB beside its rows
BATCH_BYTES = 1 << 20  # size of a batch of a sorted stream
FAN_IN = 64  # runs merged at once, so a merge holds about 64 MiB


def merged(tables: list[pa.Table], combine: Combine) -> pa.Table:
    """Concatenate tables and merge rows of equal keys; the result has the first table's schema."""
    together = pa.concat_tables(tables)
    return combine(together).select(together.column_names).cast(together.schema).replace_schema_metadata(None)


def by_key(records: pa.Table, key: tuple[str, ...]) -> pa.Table:
    """Sort records by key; the result has one chunk per column."""
    # Polars sorts in a third of Arrow's time.
    ordered = pl.DataFrame(pl.from_arrow(records)).sort(key)
    return ordered.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(records.schema).combine_chunks()


def batches(records: pa.Table, key: tuple[str, ...]) -> Iterator[pa.Table]:
    """Yield sorted records in batches of about BATCH_BYTES, cut between keys; a key with many rows makes one longer."""
    rows = max(1, BATCH_BYTES * records.num_rows // max(1, records.nbytes))
    keys, start = _Keys(records, key), 0
    while start < records.num_rows:
        stop = keys.end_of(keys[min(start + rows, len(keys)) - 1])
        yield records.slice(start, stop - start)
        start = stop


class _Keys:
    """The key tuples of sorted records, as a sequence that builds each tuple on demand."""

    def __init__(self, records: pa.Table, key: tuple[str, ...]) -> None:
        self._columns = [records[name].combine_chunks() for name in key]
        self._rows: int = records.num_rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, row: int) -> tuple[Any, ...]:
        return tuple(column[row].as_py() for column in self._columns)

    def end_of(self, key: tuple[Any, ...]) -> int:
        """Return the number of rows whose key is at most this one."""
        return bisect_right(self, key)


class SpillFile:
    """An unnamed temporary file in TMPDIR, whose space is freed when the process ends, even if it is killed.

    Records are appended and read back, never overwritten. No other process can open the file, so none must remove it.
    """

    def __init__(self) -> None:
        self._file: Any = None
        self.size = 0

    def write(self, tables: Iterable[pa.Table]) -> Run:
        """Append sorted batches as one run. Raises RunError if the disk is full."""
        run = Run(self)
        for table in tables:
            sink = pa.BufferOutputStream()
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
                writer.write_table(table)
            data = sink.getvalue()
            try:
                if self._file is None:
                    self._file = tempfile.TemporaryFile(prefix="raymill-spill-")  # noqa: SIM115
                self._file.seek(self.size)
                self._file.write(data)
                self._file.flush()
            except OSError as error:
                raise RunError(
                    f"cannot spill {data.size >> 10:,} KiB of records that outgrew memory, "
                    f"after {self.size >> 20:,} MiB: {error.strerror}",
                    where=tempfile.gettempdir(),
                    fix="free space there, or set TMPDIR to a folder on a larger disk",
                ) from error
            run.places.append((self.size, data.size))
            self.size += data.size
        return run

    def read(self, offset: int, size: int) -> pa.Table:
        self._file.seek(offset)
        with pa.ipc.open_stream(self._file.read(size)) as reader:
            return reader.read_all()


@dataclass
class Run:
    """Sorted batches in a spill file: the offset and size in bytes of each."""

    file: SpillFile
    places: list[tuple[int, int]] = field(default_factory=list)

    def __iter__(self) -> Iterator[pa.Table]:
        return (self.file.read(*place) for place in self.places)


class _Head:
    """The current batch of a sorted stream."""

    def __init__(self, stream: Iterator[pa.Table], key: tuple[str, ...]) -> None:
        self._stream, self._key = stream, key
        self.rows: pa.Table | None = None
        self._advance()

    def _advance(self) -> None:
        self.rows = next(self._stream, None)
        if self.rows is not None:
            self._keys = _Keys(self.rows, self._key)
            self._at, self.last = 0, self._keys[len(self._keys) - 1]

    def up_to(self, bound: tuple[Any, ...]) -> pa.Table:
        """Take the rows with keys up to `bound`, which is at most the batch's last key."""
        assert self.rows is not None
        start, self._at = self._at, self._keys.end_of(bound)
        taken = self.rows.slice(start, self._at - start)
        if self._at == len(self._keys):
            self._advance()
        return taken


def merge_sorted(streams: Iterable[Iterable[pa.Table]], key: tuple[str, ...], combine: Combine) -> Iterator[pa.Table]:
    """Merge sorted streams into one, with one batch of each in memory; rows of equal keys are merged.

    The streams' batches are sorted and not empty, and no key is in two batches of one stream.
    """
    heads = [_Head(iter(stream), key) for stream in streams]
    while heads := [head for head in heads if head.rows is not None]:
        # Every stream's next batch has greater keys than its current one, so no row up to the bound is missing.
        bound = min(head.last for head in heads)
        ready = [rows for head in heads if (rows := head.up_to(bound)).num_rows]
        yield ready[0] if len(ready) == 1 else by_key(merged(ready, combine), key)


class Merging:
    """Keyed records in memory, merged as they arrive.

    They are in tiers, each at least twice as large as the next, as in a log-structured merge tree (O'Neil et al.,
    1996). So a record is merged a logarithmic number of times, and rows of equal keys at most double the memory.
    """

    def __init__(self, combine: Combine, *, unique: bool = False) -> None:
        """unique: no added table has two rows of one key, so a single table needs no merging."""
        self._combine, self._unique = combine, unique
        self._fresh: list[pa.Table] = []
        self._fresh_bytes = 0
        self._tiers: list[pa.Table] = []
        self.nbytes = 0

    def add(self, records: pa.Table) -> None:
        if not records.num_rows:
            return
        self._fresh.append(records)
        self._fresh_bytes += records.nbytes
        self.nbytes += records.nbytes
        if self._fresh_bytes >= FRESH_BYTES or len(self._fresh) >= FRESH_TABLES:
            self._merge_fresh()
            while len(self._tiers) > 1 and self._tiers[-2].nbytes < 2 * self._tiers[-1].nbytes:
                self._tiers.append(self._merged([self._tiers.pop(), self._tiers.pop()]))

    def merge(self) -> None:
        """Merge all records into one table."""
        self._merge_fresh()
        if len(self._tiers) > 1:
            self._tiers = [self._merged(self._tiers)]

    def drain(self) -> list[pa.Table]:
        """Remove and return all records, as one merged table, or no table if there are no records."""
        self.merge()
        records, self._tiers, self.nbytes = self._tiers, [], 0
        return records

    def _merge_fresh(self) -> None:
        if self._fresh:
            fresh, self._fresh, self._fresh_bytes = self._fresh, [], 0
            self._tiers.append(self._merged(fresh))

    def _merged(self, tables: list[pa.Table]) -> pa.Table:
        if self._unique and len(tables) == 1:
            return tables[0]
        records = merged(tables, self._combine)
        self.nbytes += records.nbytes - sum(table.nbytes for table in tables)
        return records


class ExternalMerge(Merging):
    """Keyed records, merged as they arrive, in memory until their owner calls `spill`."""

    def __init__(self, key: tuple[str, ...], combine: Combine, file: SpillFile, *, unique: bool = False) -> None:
        super().__init__(combine, unique=unique)
        self._key, self._file = key, file
        self.runs: list[Run] = []

    def absorb(self, other: ExternalMerge) -> None:
        """Take over all records of `other`, which shares the file and must not be used again."""
        self.runs += other.runs
        for records in (*other._tiers, *other._fresh):
            self.add(records)

    def spill(self) -> None:
        """Move the records in memory to disk, as a sorted run."""
        self.runs += [self._file.write(run) for run in self._drain_sorted()]

    def sorted(self) -> Iterator[pa.Table]:
        """Return all records in key order, batch by batch; rows of equal keys are merged, and in one batch."""
        runs = self.runs
        while len(runs) > FAN_IN:
            runs = [*runs[FAN_IN:], self._file.write(merge_sorted(runs[:FAN_IN], self._key, self._combine))]
        return merge_sorted([*runs, *self._drain_sorted()], self._key, self._combine)

    def _drain_sorted(self) -> list[Iterator[pa.Table]]:
        return [batches(by_key(records, self._key), self._key) for records in self.drain()]
