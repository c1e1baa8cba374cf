"""Read one unit of raw input as frames of source columns, a bounded number of bytes at a time.

A `Batch` holds the parsed rows, as text or with the file's types, and the records that could not be parsed. A unit that
ends early (a file cut off, damaged data) raises nothing: `Reading.damage` has the reason after the last row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from tasks.sources import class_labels, delimited, locations, parquet_frames, paths, streams
from tasks.sources.discovery import limits
from tasks.sources.file_checks import Kind
from tasks.sources.item_records import parse_literal
from tasks.sources.json_objects import record_blocks
from tasks.sources.json_records import BadRecord, Block
from tasks.sources.json_series import series_of
from tasks.sources.json_values import parse_json
from tasks.sources.partitions import PART_MAX_BYTES, Unit
from tasks.sources.profiles import Profile
from tasks.sources.python_lines import parse_record
from tasks.sources.settings import ReadConfig
from tasks.sources.text_encoding import as_utf8

BLOCK_BYTES = 16 << 20
ROWS_AT_ONCE = 131_072
NUMERIC = ("rating", "timestamp", "helpful_votes", "total_votes")
CUT_OFF = "cut off: the file ends within this record"
UNCLOSED = "a quote that opens here is never closed"


@dataclass(frozen=True)
class Batch:
    """Parsed rows with their numbers (0-based data rows in the unit), and the bad records.

    `frame` has source columns; `records` replaces it where rows are kept as JSON objects."""

    frame: pl.DataFrame
    numbers: np.ndarray
    bad: list[BadRecord] = field(default_factory=list)
    records: list[dict[str, Any]] | None = None

    def with_last_bad(self, reason: str, mark: str) -> Batch:
        """Return the batch with its last record, good or bad, among the bad ones, without the mark in its text."""
        last = int(self.numbers[-1]) if len(self.numbers) else -1
        if self.bad and self.bad[-1].number > last:
            worst = self.bad[-1]
            return replace(self, bad=[*self.bad[:-1], BadRecord(worst.number, reason, worst.text)])
        if last < 0:
            return self
        text = ",".join(str(v or "") for v in self.frame.row(-1)).replace(mark, "")[:2000]
        return Batch(self.frame[:-1], self.numbers[:-1], [*self.bad, BadRecord(last, reason, text)])


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
        with locations.open_raw(file.path) as raw:
            stream = self._stream(raw)
            yield from self._delimited(stream) if file.format == "delimited" else self._json(stream)
        self.damage = stream_damage(stream) or self.damage

    def _stream(self, raw: BinaryIO) -> Any:
        file, start, end = self.unit.file, self.unit.start, self.unit.end
        if end is None:
            return streams.unpacked(raw, file.packing, limits(self.config), file.member, file.inner)
        quoted = file.quoting is not None and file.quoting.quote is not None
        if quoted:
            return streams.Slice(raw, start, end)  # cut between records by the plan
        # Without quotes every line break ends a record: a record belongs to the range that its first byte is in.
        return streams.Slice(raw, _next_line(raw, start), _next_line(raw, end))

    def _parquet(self) -> Iterator[Batch]:
        unit = self.unit
        if self.kind == "reviews" and not locations.is_remote(unit.file.path):
            # Twice as fast as pyarrow's reader here; where it fails, pyarrow's reports what is wrong.
            try:
                frame = self._parquet_at_once()
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
                frame = None
            if frame is not None:
                yield Batch(frame, np.arange(unit.first_row, unit.first_row + len(frame)))
                return
        with locations.open_raw(unit.file.path) as raw:
            reader = pq.ParquetFile(raw, page_checksum_verification=True)
            schema, wanted = reader.schema_arrow, self.profile.wanted
            columns = paths.columns_to_read(schema, wanted) if self.kind == "reviews" else None
            first = unit.first_row
            labels = class_labels.names_of(reader.schema_arrow.metadata)
            lost: dict[int, int] = {}  # rows by row group
            for group in unit.row_groups:
                rows = reader.metadata.row_group(group).num_rows
                read, reason = 0, "fewer rows than announced"
                try:
                    for table in reader.iter_batches(ROWS_AT_ONCE, [group], columns, use_threads=False):
                        frame = parquet_frames.of(pa.Table.from_batches([table]), labels)
                        frame = frame if columns is None else paths.opened(frame, schema, wanted)
                        yield Batch(frame, np.arange(first + read, first + read + table.num_rows))
                        read += table.num_rows
                except (pa.ArrowException, OSError) as error:
                    reason = " ".join(str(error).split())[:200]
                if read < rows:
                    lost[group] = rows - read
                    groups = f"row group{'s' if len(lost) > 1 else ''} {', '.join(map(str, [*lost][:10]))}"
                    self.damage = f"damaged data: {sum(lost.values()):,} rows of {groups} cannot be read ({reason})"
                first += rows

    def _parquet_at_once(self) -> pl.DataFrame | None:
        """Read all of the unit's rows; None if they are too many to hold."""
        unit = self.unit
        meta, wanted = pq.read_metadata(unit.file.path), self.profile.wanted
        schema = meta.schema.to_arrow_schema()
        if parquet_frames.is_foreign(schema):
            return None
        groups = [meta.row_group(group) for group in unit.row_groups]
        if not groups or sum(g.total_byte_size for g in groups) > 2 * PART_MAX_BYTES:
            return None
        rows = sum(g.num_rows for g in groups)
        scan = pl.scan_parquet(unit.file.path, glob=False, hive_partitioning=False)
        frame = scan.select(paths.columns_to_read(schema, wanted)).slice(unit.first_row, rows).collect()
        frame = paths.opened(frame, schema, wanted)
        if len(frame) != rows:
            return None
        frame = frame.with_columns(pl.col(pl.Categorical, pl.Enum, pl.Binary).cast(pl.String))
        return class_labels.by_name(frame, class_labels.names_of(meta.metadata))

    def _delimited(self, stream: Any) -> Iterator[Batch]:
        file, source = self.unit.file, self.profile.wanted
        assert file.quoting is not None
        columns = file.header or self.profile.header
        if self.kind == "items":
            source = list(dict.fromkeys(columns))
        heads = file.header is not None and not self.unit.start  # the first record is the header
        bad: list[BadRecord] = []
        parsed, ended = True, False

        def keep_bad(row: pa_csv.InvalidRow) -> str:
            nonlocal ended
            if row.text.startswith(text.mark):
                ended = True
            else:
                # The parser counts records from 1, the header's included.
                reason = f"{row.actual_columns} fields in the line"
                bad.append(BadRecord(row.number - 1 - heads, reason, row.text.replace(text.mark, "")[:2000]))
            return "skip"

        size = self.config.max_record_mb << 20
        if self.unit.end is not None:
            size = max(1 << 16, min(size, 3 * (self.unit.end - self.unit.start) + 100))  # one byte may become three
        text = delimited.Text(as_utf8(stream, file.encoding), file.quoting, len(columns), begins=not self.unit.start)
        if text.empty:
            return  # no record begins in this range
        done = 0  # records numbered so far
        yielded = 0  # bad records yielded so far
        last = Batch(pl.DataFrame(), np.empty(0, np.int64))  # held back: it may end in a record that was cut
        try:
            reader = pa_csv.open_csv(
                pa.PythonFile(text, mode="r"),
                read_options=pa_csv.ReadOptions(
                    column_names=list(columns), skip_rows_after_names=int(heads), use_threads=False, block_size=size
                ),
                parse_options=pa_csv.ParseOptions(
                    delimiter=file.quoting.delimiter,
                    quote_char=file.quoting.quote or False,
                    escape_char=file.quoting.escape or False,
                    newlines_in_values=file.quoting.quote is not None,
                    invalid_row_handler=keep_bad,
                ),
                convert_options=pa_csv.ConvertOptions(
                    include_columns=source, include_missing_columns=True, column_types={c: pa.string() for c in source}
                ),
            )
            for batch in reader:
                if not batch.num_rows:
                    continue
                if len(last.numbers):
                    yield last
                numbers = delimited.numbers(done, batch.num_rows, [b.number for b in bad[yielded:]])
                upto = yielded + sum(b.number < numbers[-1] for b in bad[yielded:])
                frame = pl.DataFrame({c: delimited.texts(batch[c]) for c in source})
                last = Batch(frame, numbers, bad[yielded:upto])
                yielded, done = upto, int(numbers[-1]) + 1
        except pa.ArrowInvalid as error:
            self.damage, parsed = delimited.problem(error, size), False
        last = Batch(last.frame, last.numbers, [*last.bad, *bad[yielded:]])
        cut = stream_damage(stream)
        if parsed and (not ended or (cut and text.unfinished)):
            last = last.with_last_bad(CUT_OFF if cut else UNCLOSED, text.mark)
            if not cut and last.bad:
                self.damage = f"a quote that opens in row {last.bad[-1].number} is never closed"
        self.damage = self.damage or text.misread
        yield last

    def _json(self, stream: Any) -> Iterator[Batch]:
        of_reviews = parse_record if self.unit.file.format == "python-lines" else parse_json
        parse = parse_literal if self.kind == "items" else of_reviews
        read_blocks = record_blocks(
            as_utf8(stream, self.unit.file.encoding),
            self.unit.file.format,
            self.unit.file.rows_at,
            block_bytes=BLOCK_BYTES,
            max_record_bytes=self.config.max_record_mb << 20,
            parse_line=parse,
        )
        held: Block | None = None  # held back: the last block may end in a record that was cut
        for block in read_blocks:
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
        pair = self.profile.votes.pair if self.profile.votes else None
        numeric = [self.profile.columns.get(c) for c in NUMERIC]
        columns = {
            c: series_of([paths.value_at(row, c) for row in block.rows], c == pair, c in numeric)
            for c in self.profile.wanted
        }
        return Batch(pl.DataFrame(columns), numbers, block.bad)


def stream_damage(stream: Any) -> str | None:
    return stream.damage if isinstance(stream, streams.Unpacked) else None


def _next_line(raw: BinaryIO, offset: int) -> int:
    """Find the first byte of the first record that begins at `offset` or later."""
    if offset == 0:
        return 0
    raw.seek(offset - 1)
    position = offset - 1
    while chunk := raw.read(1 << 16):
        at = chunk.find(b"\n")
        if at >= 0:
            return position + at + 1
        position += len(chunk)
    return position
