"""Detect the format, quoting, header row, encoding and columns of raw files, and group files that are alike."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, cast

import polars as pl
import pyarrow.parquet as pq

from tasks.sources import dialects, locations, paths, sampled_columns, streams
from tasks.sources.column_guesses import Column, series_of
from tasks.sources.discovery import HEAD_BYTES, Quarantined, SourceFile, limits
from tasks.sources.file_checks import Kind
from tasks.sources.item_records import parse_literal
from tasks.sources.json_objects import record_blocks
from tasks.sources.partitions import Unit
from tasks.sources.profiles import Profile, Quoting
from tasks.sources.readers import Batch, Reading
from tasks.sources.settings import ReadConfig
from tasks.sources.text_encoding import as_utf8

KEPT_RECORDS = 500
ANY = Profile(description="whatever can be read", columns={})
_USUAL_QUOTE = {",": '"', "\t": None, ";": '"', "|": '"', "\x01": None, "^": '"', "~": '"'}
_DIALECTS = [Quoting(delimiter=d, quote=q) for d in _USUAL_QUOTE for q in ('"', None)]


@dataclass
class Layout:
    """Files of one format with the same columns. `header` replaces a missing header row."""

    files: list[SourceFile]
    names: tuple[str, ...]
    header: tuple[str, ...] = ()
    encoding: str = "utf-8"
    wrong_bytes: int = 0  # values with U+FFFD in them, among `rows`
    rows: int = 0
    columns: list[Column] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)  # the first, as parsed
    damage: list[Quarantined] = field(default_factory=list)  # what ended files early
    bad: Counter[str] = field(default_factory=Counter)  # records that cannot be parsed, by reason

    @property
    def first(self) -> SourceFile:
        return self.files[0]


def layouts_of(files: Sequence[SourceFile], config: ReadConfig) -> list[Layout]:
    """Group files with the same format and (about) the same columns, those with a header row first."""
    layouts: list[Layout] = []
    detected = [_detected(file, config) for file in files]
    for file, names, encoding in sorted(detected, key=lambda d: d[0].format == "delimited" and d[0].header is None):
        for layout in layouts:
            same_way = _way(layout.first) == _way(file) and layout.encoding == encoding
            if same_way and _alike(file, names, layout):
                layout.files.append(file)
                if file.format == "delimited" and file.header is None:
                    layout.header = layout.names
                break
        else:
            lacking = file.format == "delimited" and file.header is None
            layouts.append(Layout([file], names, names if lacking else (), encoding))
    return layouts


def _way(file: SourceFile) -> tuple[object, ...]:
    # Not the escape: a file without quotes within its texts shows none.
    return file.format, file.quoting and (file.quoting.delimiter, file.quoting.quote), file.rows_at


def _alike(file: SourceFile, names: tuple[str, ...], layout: Layout) -> bool:
    if file.format == "delimited" and file.header is None:
        return len(names) == len(layout.names)
    both, either = set(names) & set(layout.names), set(names) | set(layout.names)
    return 2 * len(both) >= len(either)


def _detected(file: SourceFile, config: ReadConfig) -> tuple[SourceFile, tuple[str, ...], str]:
    """Return (the file with its quoting and header, its columns, its encoding)."""
    if file.format == "parquet":
        with locations.open_raw(file.path) as raw:
            return file, tuple(pq.read_schema(raw).names), "utf-8"
    if file.format != "delimited":
        with locations.open_raw(file.path) as raw:
            stream = _text(raw, file, config)
            head = stream if file.format == "json-columns" else io.BytesIO(stream.read(4 * HEAD_BYTES) or b"")
            found = record_blocks(
                cast(BinaryIO, head),
                file.format,
                file.rows_at,
                max_record_bytes=config.max_record_mb << 20,
                parse_line=parse_literal,
            )
            return (
                file,
                tuple(dict.fromkeys(key for block in found for row in block.rows for key in row)),
                file.encoding,
            )
    encoding = file.encoding
    start = dialects.without_preface(_head(file, config))
    quoting, first, others = _dialect(start, locations.ending(file.name))
    names = tuple(n.strip() for n in first)
    fitted = dialects.fitted_header(names, others)
    if _is_header(names, next((r for r in others if len(r) == len(fitted)), [])):
        return replace(file, quoting=quoting, header=fitted), fitted, encoding
    width = len(dialects.fitted_header(names, [first, *others]))
    numbered_names = tuple(f"column_{i + 1}" for i in range(width))
    return replace(file, quoting=quoting, header=None), numbered_names, encoding


def _head(file: SourceFile, config: ReadConfig) -> bytes:
    with locations.open_raw(file.path) as raw:
        return _text(raw, file, config).read(4 * HEAD_BYTES) or b""


def _text(raw: BinaryIO, file: SourceFile, config: ReadConfig) -> Any:
    unpacked = streams.unpacked(raw, file.packing, limits(config), file.member, file.inner)
    return as_utf8(unpacked, file.encoding)


def _dialect(start: bytes, ending: str) -> tuple[Quoting, list[str], list[list[str]]]:
    """Choose the dialect with the most uniform records; returns (quoting, first record, later ones)."""
    usual = {".tsv": ANY.tsv, ".csv": ANY.csv}.get(ending)
    best: tuple[Any, ...] = ()
    chosen: tuple[Quoting, list[str], list[list[str]]] = (ANY.csv, [""], [])
    quoted_tabs = dialects.are_quoted(start, "\t")
    for dialect in _DIALECTS:
        quoting = dialects.resolved(dialect, start)
        records = dialects.records_of(start, quoting)
        if not records:
            continue
        width, alike = Counter(len(r) for r in records).most_common(1)[0]
        share = round(alike / len(records), 1)  # a few of them may be damaged
        first_fits = width > 1 and len(dialects.fitted_header(records[0], records[1:])) == width
        usual_delimiter = usual is not None and quoting.delimiter == usual.delimiter
        usual_quote = quoting.quote == ('"' if quoted_tabs else _USUAL_QUOTE[quoting.delimiter])
        # With the wrong quotes, delimiters inside texts seem to make more fields.
        score = (first_fits, share >= 0.9, usual_quote, share, width, usual_delimiter)
        if score > best:
            best = score
            chosen = (quoting, records[0], records[1:])
    return chosen


def _is_header(names: Sequence[str], second: Sequence[str]) -> bool:
    """Whether these are short texts, none of them a number, and differ from the row below. They are distinct, or only
    the row below has digits."""
    named = [name for name in names if name]
    if len(set(named)) < len(named) and (re.search(r"\d", "".join(names)) or not re.search(r"\d", "".join(second))):
        return False
    if not named or any(len(n) > 60 or "\n" in n for n in names):
        return False
    return not any(re.fullmatch(r"[-+\d.,:/ ]+", n) for n in names if n) and list(names) != list(second)


def read_columns(layout: Layout, config: ReadConfig, rows: int) -> None:
    """Read every column of a sample into the layout."""
    reader = Profile(description="", columns={}, encoding=layout.encoding, header=layout.header or layout.names)
    values: dict[str, list[Any]] = {}
    frames: list[pl.DataFrame] = []
    known: dict[str, None] = {}
    for batch, file in sample(layout.files, reader, config, rows, "items", layout.damage):
        given = dict(file.folders)
        layout.bad.update(record.reason for record in batch.bad)
        if batch.records is not None:
            for nested in batch.records:
                record = paths.flattened(given | nested, known)
                for key in record:
                    values.setdefault(key, [None] * layout.rows)
                for key, column in values.items():
                    column.append(record.get(key))
                layout.rows += 1
            layout.records += batch.records[: KEPT_RECORDS - len(layout.records)]
        elif len(batch.numbers):
            lacking = [pl.lit(v or None, pl.String).alias(k) for k, v in given.items() if k not in batch.frame.columns]
            own = batch.frame.with_columns(lacking)
            frame = paths.unnested(own)
            known.update((name, None) for name in frame.columns if name not in own.columns)
            frames.append(sampled_columns.plain(frame))
            layout.records += sampled_columns.dated(own.head(KEPT_RECORDS - len(layout.records))).to_dicts()
            layout.rows += len(batch.numbers)
    if frames:
        series = [*sampled_columns.joined(frames)]
    else:
        series = [series_of(name, column) for name, column in values.items()]
    texts = [s for s in series if s.dtype == pl.String]
    layout.wrong_bytes = sum(int(s.str.contains("\ufffd", literal=True).sum()) for s in texts)
    layout.columns = [replace(Column.of(s.name, s), inside=s.name in known) for s in series]


def sample(
    files: Sequence[SourceFile],
    profile: Profile,
    config: ReadConfig,
    rows: int,
    kind: Kind,
    damage: list[Quarantined] | None = None,
) -> Iterator[tuple[Batch, SourceFile]]:
    """Yield the first `rows` rows of the files, in batches."""
    for file in files:
        for unit in _units(file):
            reading = Reading(unit, file.own or profile, config, kind)
            for batch in reading:
                if rows <= 0:
                    return
                records = batch.records[:rows] if batch.records is not None else None
                yield Batch(batch.frame.head(rows), batch.numbers[:rows], batch.bad[:rows], records), file
                rows -= len(batch.numbers) + len(batch.bad)
                if rows <= 0:
                    return
            if reading.damage and damage is not None:
                damage.append(Quarantined(file.name, reading.damage))


def _units(file: SourceFile) -> Iterator[Unit]:
    if file.format != "parquet":
        yield Unit(file)
        return
    with locations.open_raw(file.path) as raw:
        meta = pq.read_metadata(raw)
    first = 0
    for group in range(meta.num_row_groups):
        yield Unit(file, (group,), first)
        first += meta.row_group(group).num_rows
