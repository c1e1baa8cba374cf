"""Cut the raw files into parts, one per Ray task, by the data alone, never by the number of workers.

A part is a range of one big file or a few consecutive small files. Where a part begins depends on nearby files only, so
a folder that has grown keeps most of its parts, and their outputs are reused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.parquet as pq

from tasks.core.digests import digest_of
from tasks.sources import locations
from tasks.sources.dialects import same_length
from tasks.sources.discovery import Source, SourceFile
from tasks.sources.text_encoding import keeps_ascii

PART_MIN_BYTES, PART_MAX_BYTES = 4 << 20, 64 << 20
SCAN_BYTES = 64 << 20


@dataclass(frozen=True)
class Unit:
    """A piece of one file: row groups of a parquet file, from `first_row` on; the records of a delimited or JSON-lines
    file that begin in bytes [start, end); or a whole file that can only be read from its beginning."""

    file: SourceFile
    row_groups: tuple[int, ...] = ()
    first_row: int = 0
    start: int = 0
    end: int | None = None

    @property
    def identity(self) -> list[object]:
        """What decides its rows, as JSON values."""
        file = self.file
        quoting = file.quoting.model_dump() if file.quoting else None
        whole = [file.name, file.sha256, file.format, quoting, file.header, *file.rows_at]
        whole += [file.time_formats] if file.time_formats else []
        return [*whole, self.row_groups, self.first_row, self.start, self.end, *file.adaptation]


Part = tuple[Unit, ...]


def identity(part: Part) -> str:
    """Return the hex digest of what decides a part's rows."""
    return digest_of([unit.identity for unit in part])


def plan(source: Source) -> list[Part]:
    """Cut the input into parts of 4 to 64 MiB (before packing), in row order."""
    parts: list[list[Unit]] = []
    filled = PART_MAX_BYTES  # nothing more fits
    for file in source.files:
        units = list(_units(file))
        target = _target(sum(size for _, size in units))
        if len(units) > 1 or units[0][1] >= target:
            filled = PART_MAX_BYTES  # a big file shares no part with another
        for number, (unit, size) in enumerate(units):
            if filled + size // 2 >= target or (number == 0 and _cuts_here(file)):
                parts.append([])
                filled = 0
            parts[-1].append(unit)
            filled += size
        if len(units) > 1:
            filled = PART_MAX_BYTES
    return [_merged(part) for part in parts]


def _target(file_bytes: int) -> int:
    return min(max(file_bytes // 4, PART_MIN_BYTES), PART_MAX_BYTES)


def _cuts_here(file: SourceFile) -> bool:
    # Content-defined chunking (as in LBFS, Muthitacharoen et al., 2001): one small file in sixteen begins a part
    # whatever came before it, so that the cuts after an added file soon fall where they fell without it.
    return int(file.sha256[:1], 16) == 0


def _merged(part: Sequence[Unit]) -> Part:
    """Join neighbouring row groups of one file into one unit."""
    merged: list[Unit] = []
    for unit in part:
        if merged and unit.row_groups and merged[-1].file is unit.file:
            merged[-1] = replace(merged[-1], row_groups=merged[-1].row_groups + unit.row_groups)
        else:
            merged.append(unit)
    return tuple(merged)


def _units(file: SourceFile) -> Iterator[tuple[Unit, int]]:
    """Yield the smallest pieces that a file can be read in, with their sizes in bytes."""
    if file.format == "parquet":
        yield from _row_groups(file)
    elif file.packing or not _in_lines(file) or file.size < 2 * PART_MIN_BYTES:
        yield Unit(file), file.size
    elif file.quoting is None or file.quoting.quote is None:
        yield from _ranges(file, range(0, file.size, _target(file.size)))
    else:
        yield from _ranges(file, [0, *quoted_cuts(file)])


def _in_lines(file: SourceFile) -> bool:
    return file.format in ("json-lines", "python-lines", "delimited") and keeps_ascii(file.encoding)


def _row_groups(file: SourceFile) -> Iterator[tuple[Unit, int]]:
    with locations.open_raw(file.path) as raw:
        meta = pq.read_metadata(raw)
    first_row = 0
    for group in range(meta.num_row_groups):
        row_group = meta.row_group(group)
        yield Unit(file, (group,), first_row), row_group.total_byte_size
        first_row += row_group.num_rows
    if not meta.num_row_groups:
        yield Unit(file), 0


def _ranges(file: SourceFile, starts: Sequence[int]) -> Iterator[tuple[Unit, int]]:
    ends = [*starts[1:], file.size]
    for start, end in zip(starts, ends, strict=True):
        yield Unit(file, start=start, end=end), end - start


def quoted_cuts(file: SourceFile) -> list[int]:
    """Find where a quoted file can be cut: offsets of records' first bytes, about a target apart.

    A line break ends a record if an even number of quotes precedes it. That holds if every opening quote is at the
    beginning of a field or right after a closing one ("" in a quoted field). Any other quote, as in `5" wide` without
    quotes around it, makes the file one unit.
    """
    assert file.quoting is not None
    assert file.quoting.quote is not None
    quote, delimiter = ord(file.quoting.quote), ord(file.quoting.delimiter)
    target, cuts, next_cut = _target(file.size), [], _target(file.size)
    inside, before, offset = False, ord("\n"), 0
    with locations.open_raw(file.path) as raw:
        for chunk in locations.chunks(raw, SCAN_BYTES):
            while file.quoting.escape and (len(chunk) - len(chunk.rstrip(b"\\"))) % 2 and (more := raw.read(1)):
                chunk += more
            chunk = same_length(chunk) if file.quoting.escape else chunk
            text = np.frombuffer(chunk, dtype=np.uint8)
            quotes = np.flatnonzero(text == quote)
            opening = quotes[1 if inside else 0 :: 2]
            previous = np.where(opening > 0, text[np.maximum(opening, 1) - 1], before)
            allowed = (previous == delimiter) | (previous == 10) | (previous == 13) | (previous == quote)
            if offset == 0 and chunk.startswith(b"\xef\xbb\xbf"):
                allowed |= opening == 3
            if not allowed.all():
                return []
            while next_cut < offset + len(chunk):
                cut = _next_record(text, quotes, inside, next_cut - offset)
                if cut is None:
                    break
                cuts.append(offset + cut)
                next_cut = max(offset + cut, next_cut) + target
            inside ^= bool(len(quotes) % 2)
            before, offset = int(text[-1]), offset + len(chunk)
    return [] if inside else [cut for cut in cuts if cut < file.size]


def _next_record(text: np.ndarray, quotes: np.ndarray, inside: bool, start: int) -> int | None:
    """Find the first byte after the first line break from `start` on that is in no quoted field."""
    start = max(start, 0)
    window = 1 << 16
    while start < len(text):
        breaks = start + np.flatnonzero(text[start : start + window] == 10)
        outside = (np.searchsorted(quotes, breaks) % 2 == 0) != inside
        if outside.any():
            return int(breaks[outside][0]) + 1
        start += window
    return None
