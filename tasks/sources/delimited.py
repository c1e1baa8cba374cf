"""Prepare CSV and TSV for pyarrow's reader, and interpret its columns, row numbers and errors."""

from __future__ import annotations

import io
import re
from typing import Any
from uuid import uuid4

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.sources.discovery import BOM

_BEGUN = re.compile(rb"(?:[\xc2-\xf4]|[\xe0-\xf4][\x80-\xbf]|[\xf0-\xf4][\x80-\xbf]{2})?\Z")  # an incomplete character


class Text(io.RawIOBase):
    """A stream of UTF-8 without a byte order mark, ending in a line break and one extra record.

    Bytes invalid in UTF-8 become U+FFFD: pyarrow silently drops a bad line that it cannot show. The extra
    record, the mark, has one field where others have several, or two where they have one. If the parser meets it, all
    records before it were parsed correctly. If not, a quote that was never closed has swallowed it.
    """

    def __init__(self, stream: Any, delimiter: str, columns: int) -> None:
        super().__init__()
        self._stream = stream
        self._held = b""  # the beginning of an incomplete character
        self.mark = uuid4().hex  # random, so that no file contains it
        self._last_record = (self.mark if columns > 1 else delimiter.join([self.mark, self.mark])) + "\n"
        self._marked = False
        head = (stream.read(1 << 16) or b"").removeprefix(BOM)
        self._last = head[-1:]
        self._ready = memoryview(self._decoded(head))
        self.empty = not head

    @property
    def unfinished(self) -> bool:
        """Whether the stream ended within a line. Valid at its end."""
        return self._last not in (b"\n", b"\r")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        while not self._ready and not self._marked:
            if data := self._stream.read(size) or b"":
                self._last = data[-1:]
                self._ready = memoryview(self._decoded(data))
            else:
                self._marked = True
                rest = self._held.decode(errors="replace")
                self._ready = memoryview((rest + "\n" * self.unfinished + self._last_record).encode())
        piece, self._ready = bytes(self._ready[:size]), self._ready[size:]
        return piece

    def _decoded(self, data: bytes) -> bytes:
        data = self._held + data
        complete = len(data) - len(_BEGUN.search(data[-3:])[0])  # type: ignore[index]  # it matches nothing, too
        data, self._held = data[:complete], data[complete:]
        try:
            pa.array([data], pa.large_binary()).cast(pa.large_string())  # twenty times faster than decoding
        except pa.ArrowInvalid:
            return data.decode(errors="replace").encode()
        return data


def problem(error: pa.ArrowInvalid, size: int) -> str:
    """Describe what ended the parsing. `size`: bytes of the parser's blocks."""
    message = " ".join(str(error).split())
    if "straddl" in message:
        return f"not read from here on: a record longer than {size >> 20} MB, or a quote that is never closed"
    return f"not read from here on: cannot be parsed ({message[:200]})"


def numbers(first: int, rows: int, bad: list[int]) -> np.ndarray:
    """Number `rows` good records from `first` on, skipping the numbers of bad ones."""
    room = np.arange(first, first + rows + len(bad), dtype=np.int64)
    return np.setdiff1d(room, bad, assume_unique=True)[:rows]


def texts(column: pa.Array) -> pl.Series:
    """Return a parsed column with empty texts as null."""
    if column.type == pa.null():
        return pl.Series(values=[None] * len(column), dtype=pl.String)
    values = pl.Series(values=pl.from_arrow(column))
    return values.set(values == "", None)
