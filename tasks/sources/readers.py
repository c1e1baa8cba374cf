"""One unit of raw input as frames of source columns, a bounded number of bytes at a time.

A `Batch` has the rows that could be parsed, as text or as typed by the file, and the records that could not. What ends
a unit early (a file cut off, damaged data) is no exception here: it is `Reading.damage`, told after the rows before it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from tasks.core.settings import ReadConfig
from tasks.item_records import parse_literal
from tasks.sources import places, streams
from tasks.sources.discovery import BOM, Kind, limits
from tasks.sources.json_records import BadRecord, Block, blocks, parse_json
from tasks.sources.parts import PART_MAX_BYTES, Unit
from tasks.sources.profiles import Profile

BLOCK_BYTES = 16 << 20
ROWS_AT_ONCE = 131_072
CUT_OFF = "cut off: the file ends within this record"


@dataclass(frozen=True)
class Batch:
    """Parsed rows with their numbers (0-based data rows in the unit), and the records that are none.

    `frame` has source columns; `records` stands in its place where rows are JSON objects and are wanted as such."""

    frame: pl.DataFrame
    numbers: np.ndarray
    bad: list[BadRecord] = field(default_factory=list)
    records: list[dict[str, Any]] | None = None


@dataclass
class Reading:
    """Iterate over it for the batches of a unit; `damage` is complete after the last one."""

    unit: Unit
    profile: Profile
    config: ReadConfig
    kind: Kind = "reviews"
    damage: str | None = None

    def __iter__(self) -> Iterator[Batch]:
        file = self.unit.file
        if file.format == "parquet":
            yield from self._parquet()
            return
        with places.open_raw(file.path) as raw:
            stream = self._stream(raw)
            yield from self._delimited(stream) if file.format == "delimited" else self._json(stream)
        self.damage = stream_damage(stream) or self.damage

    def _stream(self, raw: BinaryIO) -> Any:
        file, start, end = self.unit.file, self.unit.start, self.unit.end
        if end is None:
            return streams.Unpacked(raw, file.packing, limits(self.config), file.member)
        quoted = file.quoting is not None and file.quoting.quote is not None
        if quoted:
            return streams.Slice(raw, start, end)  # cut between records by the plan
        # Without quotes every line break ends a record: a record belongs to the range that its first byte is in.
        return streams.Slice(raw, _next_line(raw, start), _next_line(raw, end))

    def _parquet(self) -> Iterator[Batch]:
        unit = self.unit
        if self.kind == "reviews" and not places.is_remote(unit.file.path):
            # Twice as fast as pyarrow's reader here; what it cannot read, the other can tell what is wrong with.
            try:
                frame = self._parquet_at_once()
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
                frame = None
            if frame is not None:
                yield Batch(frame, np.arange(unit.first_row, unit.first_row + len(frame)))
                return
        with places.open_raw(unit.file.path) as raw:
            reader = pq.ParquetFile(raw, page_checksum_verification=True)
            names = reader.schema_arrow.names
            columns = [c for c in self.profile.wanted if c in names] if self.kind == "reviews" else None
            first = unit.first_row
            for group in unit.row_groups:
                rows = reader.metadata.row_group(group).num_rows
                read = 0
                try:
                    for table in reader.iter_batches(ROWS_AT_ONCE, [group], columns, use_threads=False):
                        yield _parquet_batch(pa.Table.from_batches([table]), first + read)
                        read += table.num_rows
                except (pa.ArrowException, OSError) as error:
                    reason = " ".join(str(error).split())[:200]
                    self.damage = f"damaged data: {rows - read:,} rows of row group {group} cannot be read ({reason})"
                first += rows

    def _parquet_at_once(self) -> pl.DataFrame | None:
        """The unit's rows, unless they are too many to hold."""
        unit = self.unit
        meta = pq.read_metadata(unit.file.path)
        groups = [meta.row_group(group) for group in unit.row_groups]
        if not groups or sum(g.total_byte_size for g in groups) > 2 * PART_MAX_BYTES:
            return None
        rows = sum(g.num_rows for g in groups)
        scan = pl.scan_parquet(unit.file.path, glob=False, hive_partitioning=False)
        columns = [c for c in self.profile.wanted if c in scan.collect_schema().names()]
        frame = scan.select(columns).slice(unit.first_row, rows).collect()
        if len(frame) != rows:
            return None
        return frame.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))

    def _delimited(self, stream: Any) -> Iterator[Batch]:
        file, wanted = self.unit.file, self.profile.wanted
        assert file.quoting is not None
        if self.kind == "items":
            wanted = list(file.header or ())
        columns_given = file.header if self.unit.start else None
        if file.header is None:
            columns_given = self.profile.header
        quote = file.quoting.quote
        bad: list[BadRecord] = []
        first = 1 if columns_given else 2  # the parser counts records from 1, the header's included

        def keep_bad(row: pa_csv.InvalidRow) -> str:
            bad.append(BadRecord(row.number - first, f"{row.actual_columns} fields in the line", row.text[:2000]))
            return "skip"

        size = min(BLOCK_BYTES, self.config.max_record_mb << 20)
        if self.unit.end is not None:
            size = max(1 << 16, min(size, self.unit.end - self.unit.start + 1))
        text = _Text(stream)
        if text.empty:
            return  # no record begins in this range
        done = 0  # records numbered so far
        held = 0  # bad ones given so far
        try:
            reader = pa_csv.open_csv(
                pa.PythonFile(text, mode="r"),
                read_options=pa_csv.ReadOptions(
                    column_names=list(columns_given) if columns_given else None, use_threads=False, block_size=size
                ),
                parse_options=pa_csv.ParseOptions(
                    delimiter=file.quoting.delimiter,
                    quote_char=quote or False,
                    newlines_in_values=quote is not None,
                    invalid_row_handler=keep_bad,
                ),
                # Bytes, not text: one value that is not UTF-8 must not cost the file.
                convert_options=pa_csv.ConvertOptions(
                    include_columns=wanted, include_missing_columns=True, column_types={c: pa.binary() for c in wanted}
                ),
            )
            for batch in reader:
                numbers = _numbers(done, batch.num_rows, [b.number for b in bad[held:]])
                upto = held + sum(b.number < numbers[-1] for b in bad[held:]) if len(numbers) else held
                decoded = {c: _decode(batch[c], self.profile) for c in wanted}
                yield Batch(pl.DataFrame(decoded), numbers, bad[held:upto])
                held, done = upto, int(numbers[-1]) + 1 if len(numbers) else done
        except pa.ArrowInvalid as error:
            self.damage = _csv_problem(error, size)
        if quote and bad[held:] and bad[-1].text.count(quote) % 2 and not stream_damage(stream):
            self.damage = f"a quote that opens in row {bad[-1].number} is never closed"
        elif bad[held:] and stream_damage(stream):
            bad[-1] = BadRecord(bad[-1].number, CUT_OFF, bad[-1].text)
        if bad[held:]:
            yield Batch(pl.DataFrame(), np.empty(0, np.int64), bad[held:])

    def _json(self, stream: Any) -> Iterator[Batch]:
        parse = parse_literal if self.kind == "items" else parse_json
        found = blocks(
            stream,
            array=self.unit.file.format == "json-array",
            block_bytes=BLOCK_BYTES,
            max_record_bytes=self.config.max_record_mb << 20,
            parse_line=parse,
        )
        held: Block | None = None  # the last one is another matter: it may end in a record that was cut
        for block in found:
            if held:
                yield self._json_batch(held)
            held = block
        if held:
            if stream_damage(stream) and held.bad and held.bad[-1].number > max(held.numbers, default=-1):
                held.bad[-1] = BadRecord(held.bad[-1].number, CUT_OFF, held.bad[-1].text)
            yield self._json_batch(held)

    def _json_batch(self, block: Block) -> Batch:
        if block.broken:
            self.damage = block.broken
        numbers = np.array(block.numbers, dtype=np.int64)
        if self.kind == "items":
            return Batch(pl.DataFrame(), numbers, block.bad, block.rows)
        return Batch(_json_frame(block.rows, self.profile.wanted), numbers, block.bad)


def stream_damage(stream: Any) -> str | None:
    return stream.damage if isinstance(stream, streams.Unpacked) else None


def _next_line(raw: BinaryIO, offset: int) -> int:
    """The first byte of the first record that begins at `offset` or later."""
    if offset == 0:
        return 0
    raw.seek(offset - 1)
    position = offset - 1
    while chunk := raw.read(1 << 16):
        found = chunk.find(b"\n")
        if found >= 0:
            return position + found + 1
        position += len(chunk)
    return position


class _Text(io.RawIOBase):
    """A stream as pyarrow's CSV reader needs it: without a byte order mark."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream
        self._head = (stream.read(1 << 16) or b"").removeprefix(BOM)
        self.empty = not self._head

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._head:
            head, self._head = self._head[:size] if size >= 0 else self._head, b"" if size < 0 else self._head[size:]
            return head
        return self._stream.read(size) or b""


def _csv_problem(error: pa.ArrowInvalid, size: int) -> str:
    said = " ".join(str(error).split())
    if "straddl" in said:
        return f"from here on not read: a record longer than {size >> 20} MB, or a quote that is never closed"
    return f"from here on not read: cannot be parsed ({said[:200]})"


def _numbers(first: int, rows: int, bad: list[int]) -> np.ndarray:
    """The numbers of `rows` good records from `first` on, stepping over those of bad ones."""
    room = np.arange(first, first + rows + len(bad), dtype=np.int64)
    return np.setdiff1d(room, bad, assume_unique=True)[:rows]


def _decode(column: pa.Array, profile: Profile) -> pl.Series:
    """Bytes to text; what says nothing is null, bytes that are not of the encoding become U+FFFD."""
    if column.type == pa.null():
        return pl.Series(values=[None] * len(column), dtype=pl.String)
    try:
        if profile.encoding.lower() not in ("utf-8", "utf8"):
            raise pa.ArrowInvalid("not UTF-8")
        texts = pl.Series(values=pl.from_arrow(column.cast(pa.string())))
    except pa.ArrowInvalid:
        decoded = [b.decode(profile.encoding, errors="replace") for b in column.to_pylist()]
        texts = pl.Series(values=decoded, dtype=pl.String)
    return texts.set(texts == "", None)


def _json_frame(rows: list[dict[str, Any]], wanted: list[str]) -> pl.DataFrame:
    return pl.DataFrame({column: _json_series([row.get(column) for row in rows]) for column in wanted})


def _json_series(values: list[Any]) -> pl.Series:
    """Values of one type as they are; of several types, or of one that no column is made from, as their text."""
    try:
        series = pl.Series(values=values, strict=True)
    except (TypeError, OverflowError, pl.exceptions.PolarsError):
        series = pl.Series(values=[_text(v) for v in values], dtype=pl.String)
    if series.dtype in (pl.Object, pl.Struct) or isinstance(series.dtype, pl.Struct):
        series = pl.Series(values=[_text(v) for v in values], dtype=pl.String)
    return series


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _parquet_batch(table: pa.Table, first_row: int) -> Batch:
    frame = pl.DataFrame(pl.from_arrow(table)).with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))
    return Batch(frame, np.arange(first_row, first_row + table.num_rows))
