"""Read JSON lines, and JSON arrays of any size, as blocks of dictionaries in bounded memory.

A record that cannot be read becomes a BadRecord with its number, the reason and its text; none is lost silently.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from tasks.sources.json_values import DECODER, MAX_DEPTH, TOO_DEEP, has_huge_float, mend, parse_json
from tasks.sources.streams import in_words

TEXT_CHARS = 2000

_SPACE = re.compile(r"[ \t\r\n]*")
_IN_STRING, _OUTSIDE = re.compile(r'["\\]'), re.compile(r'["{}\[\],]')
_ARRAY_PIECE = 4 << 20  # as text, one emoji makes this 16 MiB
_NEAR = 32  # an error this close to the end of the buffer may disappear once more is read


@dataclass(frozen=True)
class BadRecord:
    """A record that cannot be read: its 0-based number in the stream, why, and its first 2,000 characters."""

    number: int
    reason: str
    text: str


@dataclass
class Block:
    """Some records: `numbers[i]` is the number of `rows[i]`. `broken`: why nothing after this block can be read."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    bad: list[BadRecord] = field(default_factory=list)
    broken: str | None = None


def blocks(
    stream: BinaryIO,
    *,
    array: bool,
    block_bytes: int = 32 << 20,
    max_record_bytes: int,
    parse_line: Callable[[bytes], Any] = parse_json,
) -> Iterator[Block]:
    """Yield the records of a stream of JSON lines, or of one JSON array, in order.

    Bad records are numbered too, blank lines are not. Memory holds about one block and the longest record allowed.
    `parse_line` (for lines only) raises ValueError with the reason. The last line needs no line break; the caller must
    check whether it was cut off. For arrays the limit counts characters, and after a syntax error the rest is one bad
    record and `Block.broken` is set.
    """
    if array:
        yield from _Array(stream, block_bytes, max_record_bytes).blocks()
        return
    number = 0
    for lines in _lines(stream, block_bytes, max_record_bytes):
        block = Block()
        for line in lines:
            if isinstance(line, _TooLong):
                block.bad.append(BadRecord(number, _over(line.size, max_record_bytes), line.text))
                number += 1
                continue
            try:
                value = parse_line(line)
            except (ValueError, RecursionError) as error:
                if not line.strip():
                    continue
                reason = TOO_DEEP if isinstance(error, RecursionError) else str(error)
                block.bad.append(BadRecord(number, reason, _text(line)))
            else:
                if type(value) is dict:
                    block.rows.append(value)
                    block.numbers.append(number)
                else:
                    block.bad.append(BadRecord(number, _no_object(value), _text(line)))
            number += 1
        yield block


def _no_object(value: Any) -> str:
    kinds = {list: "array", str: "string", int: "number", float: "number", bool: "boolean"}
    kind = f"a JSON {kinds.get(type(value), type(value).__name__)}"
    return f"{'JSON null' if value is None else kind}, not an object"


def _text(line: bytes) -> str:
    return line[: 4 * TEXT_CHARS].decode("utf-8", errors="replace")[:TEXT_CHARS].rstrip("\r")


def _over(size: int, limit: int) -> str:
    return f"record of {in_words(size)}; the limit is {in_words(limit)}"


@dataclass(frozen=True)
class _TooLong:
    """A line over the limit: its length and its beginning."""

    size: int
    text: str


def _lines(stream: BinaryIO, block_bytes: int, limit: int) -> Iterator[list[bytes | _TooLong]]:
    """Yield the lines of each block, cut at line feeds only; a line over the limit is dropped while it is read."""
    rest: list[bytes] = []  # pieces of the unfinished line; of a long one only its start
    size = 0  # the length of that line so far

    def keep(piece: bytes) -> None:
        nonlocal rest, size
        size += len(piece)
        rest.append(piece)
        if size > limit:
            rest = [b"".join(rest)[: 4 * TEXT_CHARS]]

    def line() -> bytes | _TooLong:
        line = b"".join(rest)
        return _TooLong(size, _text(line)) if size > limit else line

    for data in _chunks(stream, block_bytes):
        first, *others = data.split(b"\n") if b"\n" in data else [data]
        keep(first)
        if not others:
            continue
        ready = [line()]
        rest, size = [], 0
        keep(others.pop())
        if len(data) > limit:
            ready += [_TooLong(len(other), _text(other)) if len(other) > limit else other for other in others]
        else:
            ready += others
        yield ready
    if size:
        yield [line()]


def _chunks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the bytes of a stream without a leading byte order mark."""
    start = b""
    while len(start) < 3 and (more := stream.read(3 - len(start))):
        start += more
    if start and start != codecs.BOM_UTF8:
        yield start
    while data := stream.read(size):
        yield data


class _Broken(Exception):
    """Nothing after this can be read. `text` is the rest, if it is no longer in the buffer."""

    def __init__(self, reason: str, text: str = "") -> None:
        super().__init__(reason)
        self.text = text


class _OverLimit(Exception):
    """An element is longer than allowed; `_skip` measures it."""


class _Array:
    """A reader of one JSON array. `_buffer[_at:]` is read but not parsed yet."""

    def __init__(self, stream: BinaryIO, block_bytes: int, limit: int) -> None:
        self._stream_chunks = _chunks(stream, min(block_bytes, _ARRAY_PIECE))
        self._block_chars, self._limit = block_bytes, limit
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._buffer, self._at, self._number = "", 0, 0

    def blocks(self) -> Iterator[Block]:
        block, taken = Block(), 0
        try:
            if self._peek() != "[":
                raise _Broken("no array begins here")
            self._at += 1
            while self._peek() != "]":
                taken += self._element(block)
                if self._peek() == ",":
                    self._at += 1
                elif self._peek() != "]":
                    raise _Broken("no comma after an element" if self._peek() else "the array is not closed")
                if taken >= self._block_chars:
                    yield block
                    block, taken = Block(), 0
            self._at += 1
            if self._peek():
                raise _Broken("more text after the end of the array")
        except _Broken as error:
            block.broken = f"not JSON from here on: {error}"
            if text := error.text or self._ahead(TEXT_CHARS):
                block.bad.append(BadRecord(self._number, block.broken, text))
        yield block

    def _element(self, block: Block) -> int:
        """Take the element at `_at` into `block`; returns its number of characters."""
        try:
            value, size = self._parse()
        except (_OverLimit, RecursionError, ValueError) as error:
            size, text = self._skip()
            reason = TOO_DEEP if isinstance(error, RecursionError) else str(error) or _over(size, self._limit)
            block.bad.append(BadRecord(self._number, reason, text))
        else:
            if isinstance(value, dict):
                block.rows.append(value)
                block.numbers.append(self._number)
            else:
                text = self._buffer[self._at : self._at + min(size, TEXT_CHARS)]
                block.bad.append(BadRecord(self._number, _no_object(value), text))
            self._at += size
        self._number += 1
        return size

    def _parse(self) -> tuple[Any, int]:
        """Parse the element at `_at`; returns it and its length. Any error but _Broken loses this element only."""
        while True:
            try:
                value, end = DECODER.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                unparsed, at_error = len(self._buffer) - self._at, error.pos - self._at
                unfinished = error.msg.startswith("Unterminated") or at_error + _NEAR >= unparsed
                if unfinished and unparsed <= self._limit + _NEAR and self._read_on():
                    continue
                if unparsed > self._limit and (unfinished or at_error > self._limit):
                    raise _OverLimit from None
                raise _Broken(error.msg) from None
            except RecursionError:
                raise
            except ValueError as error:  # an integer of more than 4,300 digits
                raise ValueError(f"not JSON: {error}") from None
            size = end - self._at
            # 12 may be the start of 123 or of 12.5e3.
            enough = end + (_NEAR if isinstance(value, (int, float)) else 0) < len(self._buffer)
            if enough or not self._read_on():
                break
        start, end = self._at, self._at + size
        if size > self._limit:
            raise _OverLimit
        if self._buffer.count("{", start, end) + self._buffer.count("[", start, end) > MAX_DEPTH:
            has_huge_float(value)  # raises if it is too deep
        return mend(value) if self._buffer.find("\\u", start, end) >= 0 else value, size

    def _skip(self) -> tuple[int, str]:
        """Skip the element at `_at` by its quotes and brackets alone; returns its length and start."""
        text = self._ahead(TEXT_CHARS)
        size, depth, in_string = 0, 0, False
        while True:
            sign = (_IN_STRING if in_string else _OUTSIDE).search(self._buffer, self._at)
            if sign is None or (sign[0] == "\\" and sign.end() == len(self._buffer)):
                upto = sign.start() if sign else len(self._buffer)
                size, self._at = size + upto - self._at, upto
                if not self._read_on():
                    raise _Broken("the array is not closed", text)
                continue
            if depth == 0 and not in_string and sign[0] in ",]}":
                size, self._at = size + sign.start() - self._at, sign.start()
                return size, text[:size].rstrip()
            upto = sign.end() + (sign[0] == "\\")
            size, self._at = size + upto - self._at, upto
            if sign[0] == '"':
                in_string = not in_string
            elif not in_string:
                depth += 1 if sign[0] in "{[" else -1 if sign[0] in "}]" else 0

    def _peek(self) -> str:
        """Move `_at` to the next character that is not white space, and return it; "" at the end."""
        while True:
            self._at = _SPACE.match(self._buffer, self._at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._read_on():
                return ""

    def _ahead(self, chars: int) -> str:
        while len(self._buffer) - self._at < chars and self._read_on():
            pass
        return self._buffer[self._at : self._at + chars]

    def _read_on(self) -> bool:
        """Drop the parsed text and double the rest, as a long element is parsed anew after each read."""
        left = self._buffer[self._at :]
        pieces, got = [left], 0
        for data in self._stream_chunks:
            pieces.append(self._decoder.decode(data))
            got += len(pieces[-1])
            if got >= max(len(left), 1):  # a chunk may end within a character and give none
                break
        else:
            pieces.append(self._decoder.decode(b"", final=True))
        self._buffer, self._at = "".join(pieces), 0
        return len(self._buffer) > len(left)
