"""Read JSON that is neither lines nor an array: objects one after the other, or one object that holds all rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from tasks.sources.json_arrays import ArrayReader, OverLimit
from tasks.sources.json_blocks import TEXT_CHARS, BadRecord, Block, Broken
from tasks.sources.json_records import blocks
from tasks.sources.json_values import DECODER, parse_json
from tasks.sources.streams import in_words

Path = tuple[str, ...]
COLUMNS_BYTES = 256 << 20  # an object by column is held as a whole
_ROWS_AT_ONCE = 65_536


def record_blocks(
    stream: BinaryIO,
    form: str,
    rows_at: Sequence[Path] = (),
    *,
    block_bytes: int = 32 << 20,
    max_record_bytes: int,
    parse_line: Callable[[bytes], Any] = parse_json,
) -> Iterator[Block]:
    """Yield the records of a stream in this form (a SourceFile's format), as `json_records.blocks` does."""
    if form == "json-joined":
        yield from JoinedReader(stream, block_bytes, max_record_bytes).blocks()
    elif form == "json-wrapped":
        yield from WrappedReader(stream, block_bytes, max_record_bytes, rows_at).blocks()
    elif form == "json-columns":
        yield from _by_column(stream)
    else:
        array = form == "json-array"
        yield from blocks(
            stream, array=array, block_bytes=block_bytes, max_record_bytes=max_record_bytes, parse_line=parse_line
        )


class JoinedReader(ArrayReader):
    """A reader of objects one after the other, with white space, a comma or nothing between them."""

    def _places(self) -> Iterator[None]:
        while self._peek():
            yield
            if self._peek() == ",":
                self._at += 1


class WrappedReader(ArrayReader):
    """A reader of one object that holds the rows in arrays at these paths of keys; all else in it is skipped."""

    def __init__(self, stream: BinaryIO, block_bytes: int, limit: int, rows_at: Sequence[Path]) -> None:
        super().__init__(stream, block_bytes, limit)
        self._rows_at = set(rows_at)

    def _places(self) -> Iterator[None]:
        yield from self._object(())
        if self._peek():
            raise Broken("more text after the end of the object")

    def _object(self, path: Path) -> Iterator[None]:
        if self._peek() != "{":
            raise Broken("no object begins here")
        self._at += 1
        while self._peek() != "}":
            inside = (*path, self._key())
            if inside in self._rows_at and self._peek() == "[":
                yield from self._array()
            elif self._peek() == "{" and any(at[: len(inside)] == inside for at in self._rows_at):
                yield from self._object(inside)
            else:
                self._skip()
            if self._peek() == ",":
                self._at += 1
            elif self._peek() != "}":
                raise Broken("no comma after a value" if self._peek() else "the object is not closed")
        self._at += 1

    def _key(self) -> str:
        if self._peek() != '"':
            raise Broken("no key begins here" if self._peek() else "the object is not closed")
        try:
            key, size = self._parse()
        except (OverLimit, ValueError, RecursionError):
            raise Broken("a key that cannot be read") from None
        self._at += size
        if self._peek() != ":":
            raise Broken("no colon after a key")
        self._at += 1
        self._peek()
        return str(key)


def arrays_in(value: dict[str, Any], path: Path = ()) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """Yield the arrays of objects in an object, with their paths, four keys deep at most."""
    for key, inside in value.items():
        if isinstance(inside, list) and inside and all(isinstance(v, dict) for v in inside[:100]):
            yield (*path, key), inside
        elif isinstance(inside, dict) and len(path) < 3:
            yield from arrays_in(inside, (*path, key))


def begun_arrays_in(text: str) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """Yield the arrays of objects in an object of which only the beginning is known, with their first rows."""
    at = _skip_space(text, text.find("{") + 1)
    path: list[str] = []
    while at < len(text):
        if text[at] == "}" and path:
            path.pop()
            at = _skip_space(text, at + 1, ",")
            continue
        try:
            key, at = DECODER.raw_decode(text, at)
            at = _skip_space(text, at, ":")
            if text[at : at + 1] == "[" and text[_skip_space(text, at + 1)] == "{":
                rows, at = _first_rows(text, at + 1)
                yield (*path, str(key)), rows
            elif text[at : at + 1] == "{" and len(path) < 3:
                path.append(str(key))
                at += 1
            else:
                _, at = DECODER.raw_decode(text, at)
        except (ValueError, RecursionError, IndexError):
            return
        at = _skip_space(text, at, ",")


def _first_rows(text: str, at: int) -> tuple[list[dict[str, Any]], int]:
    """Return an array's rows and the position after it; the text's end where the array is cut."""
    rows: list[dict[str, Any]] = []
    while at < len(text):
        at = _skip_space(text, at, ",")
        if text[at : at + 1] == "]":
            return rows, at + 1
        try:
            row, at = DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            break
        if isinstance(row, dict):
            rows.append(row)
    return rows, len(text)


def _skip_space(text: str, at: int, more: str = "") -> int:
    while at < len(text) and text[at] in " \t\r\n" + more:
        at += 1
    return at


def rows_by_column(value: Any) -> list[dict[str, Any]] | None:
    """Return the rows of an object in an orientation of pandas' `to_json`: columns, index, split or list."""
    if not isinstance(value, dict) or not value:
        return None
    names, data = value.get("columns"), value.get("data")
    if isinstance(names, list) and isinstance(data, list) and all(isinstance(row, list) for row in data):
        return [dict(zip(map(str, names), row, strict=False)) for row in data]
    inner = list(value.values())
    if len(inner) > 1 and all(isinstance(v, list) for v in inner):
        if len({len(v) for v in inner}) > 1 or any(isinstance(x, dict) for v in inner for x in v[:10]):
            return None
        return [dict(zip(value, row, strict=True)) for row in zip(*inner, strict=True)]
    if not all(isinstance(v, dict) for v in inner) or not all(inner):
        return None
    labels = dict.fromkeys(label for v in inner for label in v)
    filled = sum(map(len, inner)) / (len(inner) * len(labels))
    by_row = _are_numbers(value) or (not _are_numbers(labels) and len(labels) < len(value))
    if min(len(inner), len(labels)) < 2 or filled < (0.5 if by_row and len(inner) >= 10 else 1):
        return None  # nested objects with keys of their own, no table
    if by_row:
        return inner
    return [{name: column.get(label) for name, column in value.items()} for label in labels]


def _are_numbers(labels: Any) -> bool:
    return all(label.isdecimal() for label in labels)


def _by_column(stream: BinaryIO) -> Iterator[Block]:
    data = b""
    while len(data) <= COLUMNS_BYTES and (more := stream.read(1 << 24)):
        data += more
    reason = f"by column, and longer than {in_words(COLUMNS_BYTES)}; write it as JSON lines"
    try:
        rows: list[Any] | None = rows_by_column(parse_json(data)) if len(data) <= COLUMNS_BYTES else None
        reason = reason if len(data) > COLUMNS_BYTES else "not JSON by column"
    except ValueError as error:
        rows, reason = None, str(error)
    if rows is None:
        text = data[: 4 * TEXT_CHARS].decode("utf-8", "replace")[:TEXT_CHARS]
        yield Block(bad=[BadRecord(0, reason, text)], broken=reason)
        return
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]
        good = [i for i, row in enumerate(part) if isinstance(row, dict)]
        bad = [
            BadRecord(start + i, "not an object", json.dumps(row)[:TEXT_CHARS])
            for i, row in enumerate(part)
            if not isinstance(row, dict)
        ]
        yield Block([part[i] for i in good], [start + i for i in good], bad)
