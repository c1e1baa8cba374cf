"""Records of a JSON source as they are read: good ones, bad ones, and what ends the reading."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from tasks.sources.streams import in_words

TEXT_CHARS = 2000


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


def no_object(value: Any) -> str:
    kinds = {list: "array", str: "string", int: "number", float: "number", bool: "boolean"}
    kind = f"a JSON {kinds.get(type(value), type(value).__name__)}"
    return f"{'JSON null' if value is None else kind}, not an object"


def over(size: int, limit: int) -> str:
    return f"record of {in_words(size)}; the limit is {in_words(limit)}"


def chunks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the bytes of a stream without a leading byte order mark."""
    start = b""
    while len(start) < 3 and (more := stream.read(3 - len(start))):
        start += more
    if start and start != codecs.BOM_UTF8:
        yield start
    while data := stream.read(size):
        yield data


class Broken(Exception):
    """Nothing after this can be read. `text` is the rest, if it is no longer in the buffer."""

    def __init__(self, reason: str, text: str = "") -> None:
        super().__init__(reason)
        self.text = text
