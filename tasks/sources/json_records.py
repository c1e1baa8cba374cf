"""Read JSON lines, and JSON arrays of any size, as blocks of dictionaries in bounded memory.

A record that cannot be read becomes a BadRecord with its number, the reason and its text; none is lost silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from tasks.sources import joined_lines
from tasks.sources.json_arrays import ArrayReader
from tasks.sources.json_blocks import TEXT_CHARS, BadRecord, Block, chunks, no_object, over
from tasks.sources.json_values import TOO_DEEP, parse_json
from tasks.sources.streams import in_words

__all__ = ["BadRecord", "Block", "blocks"]


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
        yield from ArrayReader(stream, block_bytes, max_record_bytes).blocks()
        return
    number = 0
    for lines in _lines(stream, block_bytes, max_record_bytes):
        block = Block()
        for line in lines:
            if isinstance(line, _TooLong):
                block.bad.append(BadRecord(number, over(line.size, max_record_bytes), line.text))
                if joined_lines.JOINED.search(line.text):
                    block.broken = f"not read: several records without a line break, of {in_words(line.size)} in all"
                number += 1
                continue
            try:
                value = parse_line(line)
            except (ValueError, RecursionError) as error:
                if not line.strip():
                    continue
                if objects := joined_lines.split(line):
                    for record, wrong in objects:
                        if wrong:
                            block.bad.append(BadRecord(number, wrong, str(record)[:TEXT_CHARS]))
                        else:
                            block.rows.append(record)
                            block.numbers.append(number)
                        number += 1
                    continue
                reason = TOO_DEEP if isinstance(error, RecursionError) else str(error)
                block.bad.append(BadRecord(number, reason, _text(line)))
            else:
                if type(value) is dict:
                    block.rows.append(value)
                    block.numbers.append(number)
                else:
                    block.bad.append(BadRecord(number, no_object(value), _text(line)))
            number += 1
        yield block


def _text(line: bytes) -> str:
    return line[: 4 * TEXT_CHARS].decode("utf-8", errors="replace")[:TEXT_CHARS].rstrip("\r")


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

    for data in chunks(stream, block_bytes):
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
