"""Read a JSON array of any size element by element in bounded memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from tasks.sources.json_blocks import TEXT_CHARS, BadRecord, Block, Broken, chunks, no_object, over
from tasks.sources.json_values import DECODER, MAX_DEPTH, TOO_DEEP, has_huge_float, mend

_SPACE = re.compile(r"[ \t\r\n]*")
_IN_STRING, _OUTSIDE = re.compile(r'["\\]'), re.compile(r'["{}\[\],]')
_ARRAY_PIECE = 4 << 20  # as text, one emoji makes this 16 MiB
_NEAR = 32  # an error this close to the end of the buffer may disappear once more is read


class OverLimit(Exception):
    """An element is longer than allowed; `_skip` measures it."""


class ArrayReader:
    """A reader of one JSON array. `_buffer[_at:]` is read but not parsed yet."""

    def __init__(self, stream: BinaryIO, block_bytes: int, limit: int) -> None:
        self._stream_chunks = chunks(stream, min(block_bytes, _ARRAY_PIECE))
        self._block_chars, self._limit = block_bytes, limit
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._buffer, self._at, self._number = "", 0, 0

    def blocks(self) -> Iterator[Block]:
        block, taken = Block(), 0
        try:
            for _ in self._places():
                taken += self._element(block)
                if taken >= self._block_chars:
                    yield block
                    block, taken = Block(), 0
        except Broken as error:
            block.broken = f"not JSON from here on: {error}"
            if text := error.text or self._ahead(TEXT_CHARS):
                block.bad.append(BadRecord(self._number, block.broken, text))
        yield block

    def _places(self) -> Iterator[None]:
        """Move to the beginning of each element; the caller takes it before the next."""
        yield from self._array()
        if self._peek():
            raise Broken("more text after the end of the array")

    def _array(self) -> Iterator[None]:
        if self._peek() != "[":
            raise Broken("no array begins here")
        self._at += 1
        while self._peek() != "]":
            yield
            if self._peek() == ",":
                self._at += 1
            elif self._peek() != "]":
                raise Broken("no comma after an element" if self._peek() else "the array is not closed")
        self._at += 1

    def _element(self, block: Block) -> int:
        """Take the element at `_at` into `block`; returns its number of characters."""
        try:
            value, size = self._parse()
        except (OverLimit, RecursionError, ValueError) as error:
            size, text = self._skip()
            reason = TOO_DEEP if isinstance(error, RecursionError) else str(error) or over(size, self._limit)
            block.bad.append(BadRecord(self._number, reason, text))
        else:
            if isinstance(value, dict):
                block.rows.append(value)
                block.numbers.append(self._number)
            else:
                text = self._buffer[self._at : self._at + min(size, TEXT_CHARS)]
                block.bad.append(BadRecord(self._number, no_object(value), text))
            self._at += size
        self._number += 1
        return size

    def _parse(self) -> tuple[Any, int]:
        """Parse the element at `_at`; returns it and its length. Any error but Broken loses this element only."""
        while True:
            try:
                value, end = DECODER.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                unparsed, at_error = len(self._buffer) - self._at, error.pos - self._at
                unfinished = error.msg.startswith("Unterminated") or at_error + _NEAR >= unparsed
                if unfinished and unparsed <= self._limit + _NEAR and self._read_on():
                    continue
                if unparsed > self._limit and (unfinished or at_error > self._limit):
                    raise OverLimit from None
                raise Broken(error.msg) from None
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
            raise OverLimit
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
                    raise Broken("the array is not closed", text)
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
