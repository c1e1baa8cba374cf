"""Prepare CSV and TSV for pyarrow's reader, and interpret its columns, row numbers and errors."""

from __future__ import annotations

import io
import re
from typing import Any
from uuid import uuid4

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.sources import dialects
from tasks.sources.profiles import Quoting

_BEGUN = re.compile(rb"(?:[\xc2-\xf4]|[\xe0-\xf4][\x80-\xbf]|[\xf0-\xf4][\x80-\xbf]{2})?\Z")  # an incomplete character


class Text(io.RawIOBase):
    """A stream of UTF-8 without a byte order mark, ending in a line break and one extra record.

    Bytes invalid in UTF-8 become U+FFFD: pyarrow silently drops a bad line that it cannot show. The extra
    record, the mark, has one field where others have several, or two where they have one. If the parser meets it, all
    records before it were parsed correctly. If not, a quote that was never closed has swallowed it.
    """

    def __init__(self, stream: Any, quoting: Quoting, columns: int, *, begins: bool = True) -> None:
        super().__init__()
        self._stream = stream
        self._held = b""  # the beginning of an incomplete character
        self.mark = uuid4().hex  # random, so that no file contains it
        self._quoting = quoting
        self._slash = b""  # a backslash whose next character is not read yet
        self._counts = (0, 0)  # quotes escaped by a backslash, and doubled ones, where a backslash is data
        self._last_record = (self.mark if columns > 1 else quoting.delimiter.join([self.mark, self.mark])) + "\n"
        self._marked = False
        head = stream.read(1 << 16) or b""
        head = dialects.without_preface(head) if begins else head
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
                rest = (self._held + 2 * self._slash).decode(errors="replace")
                self._ready = memoryview((rest + "\n" * self.unfinished + self._last_record).encode())
        piece, self._ready = bytes(self._ready[:size]), self._ready[size:]
        return piece

    @property
    def misread(self) -> str | None:
        """Why the quotes seem to be escaped in another way than they are read. Valid at the end."""
        escaped, doubled = self._counts
        if not escaped or escaped < doubled:
            return None
        return f"{escaped:,} quotes are escaped by a backslash, which the file's beginning does not show: set `escape`"

    def _decoded(self, data: bytes) -> bytes:
        return self._escaped(self._whole_characters(data))

    def _escaped(self, data: bytes) -> bytes:
        if self._quoting.escape is None:
            if self._quoting.quote is not None and b'\\"' in data:
                counts = dialects.count_escapes(data, self._quoting.delimiter)
                self._counts = (self._counts[0] + counts[0], self._counts[1] + counts[1])
            return data
        data = self._slash + data
        slashes = len(data) - len(data.rstrip(b"\\"))
        whole = len(data) - slashes % 2
        data, self._slash = data[:whole], data[whole:]
        return dialects.plain_backslashes(data)

    def _whole_characters(self, data: bytes) -> bytes:
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
