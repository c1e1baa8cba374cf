"""Decompress gzip, bzip2, xz and zstd streams piece by piece, up to the first damaged byte."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import BinaryIO

_Stream = Generator[bytes, None, bytes]  # yields unpacked bytes and returns the packed bytes read beyond its end

XZ_MEMORY = 256 << 20  # of its dictionary; the highest preset needs 65 MiB
PACKED_PIECE, UNPACKED_PIECE = 64 << 10, 256 << 10


class Damaged(Exception):
    """Nothing more can be unpacked; the message completes "gzip data …"."""


class Feed:
    """Packed bytes in full pieces, and their count so far."""

    def __init__(self, raw: BinaryIO) -> None:
        self.raw = raw
        self.taken = 0

    def take(self, size: int = PACKED_PIECE) -> bytes:
        """Read `size` bytes, fewer only at the end: where a limit strikes must not depend on short reads."""
        data = self.raw.read(size) or b""
        while 0 < len(data) < size and (more := self.raw.read(size - len(data))):
            data += more
        self.taken += len(data)
        return data


def one_after_another(feed: Feed, magic: bytes, unpack: Callable[[Feed, bytes], _Stream]) -> Iterator[bytes]:
    """Unpack concatenated streams (`cat a.gz b.gz`, bgzip, pbzip2), and skip the zeros that fill a tape's block."""
    data = feed.take()
    while data:
        data = (yield from unpack(feed, data)).lstrip(b"\0")
        while not data and (more := feed.take()):
            data = more.lstrip(b"\0")
        if not magic.startswith(data[: len(magic)]):
            raise Damaged("followed by something else")


def inflate(feed: Feed, data: bytes, wbits: int = 31) -> _Stream:
    """Unpack one gzip (wbits 31) or deflate (-15) stream that starts with `data`."""
    unpacker = zlib.decompressobj(wbits)
    while not unpacker.eof:
        data = data or feed.take()
        spare = unpacker.copy()  # 40 KB: cheap beside the piece
        try:
            piece = unpacker.decompress(data, UNPACKED_PIECE)
        except zlib.error as error:
            yield from _up_to_error(spare, data)
            wrong_sum = "data check" in str(error) or "length check" in str(error)
            raise Damaged("has a bad checksum" if wrong_sum else "damaged") from None
        if piece:
            yield piece
        elif not data and not unpacker.eof:  # output may be pending after the last byte went in
            raise Damaged("cut off")
        data = unpacker.unconsumed_tail
    return unpacker.unused_data


def _up_to_error(unpacker: zlib._Decompress, data: bytes) -> Iterator[bytes]:
    """Yield the good bytes of a piece that failed to unpack: zlib discards them with the error."""
    out = bytearray()
    try:
        for i in range(len(data)):
            out += unpacker.decompress(data[i : i + 1])
    except zlib.error:
        pass
    yield bytes(out)


def bunzip2(feed: Feed, data: bytes | None) -> _Stream:
    """Unpack one bzip2 stream that starts with `data`."""
    unpacker = bz2.BZ2Decompressor()
    while not unpacker.eof:
        if data is None and unpacker.needs_input:
            data = feed.take()
        try:
            # Small steps: an error loses the output of its step.
            piece = unpacker.decompress(data or b"", 4096)
        except OSError:
            raise Damaged("damaged or with a bad checksum") from None
        if piece:
            yield piece
        elif data == b"" and not unpacker.eof:
            raise Damaged("cut off")
        data = None
    return unpacker.unused_data


def unxz(feed: Feed, data: bytes) -> _Stream:
    """Unpack one xz stream that starts with `data`."""
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
    while not unpacker.eof:
        if not data and unpacker.needs_input:
            data = feed.take()
            if not data:
                raise Damaged("cut off")
        try:
            # Small steps: an error loses the output of its step.
            piece = unpacker.decompress(data, 4096)
        except lzma.LZMAError as error:
            raise Damaged(
                "needs too much memory" if "Memory" in str(error) else "damaged or with a bad checksum"
            ) from None
        data = b""
        if piece:
            yield piece
    return unpacker.unused_data


class _PiecesForArrow:
    """A file object for Arrow over a feed.

    Arrow loses the output of a failing step. So steps are small, and the last four bytes, which may be a checksum,
    come alone. An error of the raw file is kept apart, as Arrow's own errors have the same type.
    """

    closed = False

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._held = b""
        self.error: Exception | None = None

    def read(self, _: int) -> bytes:
        try:
            while new := self._feed.take(8 << 10):
                data = self._held + new
                self._held = data[-4:]
                if len(data) > 4:
                    return data[:-4]
        except Exception as error:
            self.error = error
            raise
        data, self._held = self._held, b""
        return data

    def close(self) -> None:
        pass


def unzstd(feed: Feed) -> Iterator[bytes]:
    import pyarrow as pa

    source = _PiecesForArrow(feed)
    stream = pa.CompressedInputStream(pa.PythonFile(source, mode="r"), "zstd")
    # A failing read fills the buffer up to the damage without reporting how far. 0xFF occurs in no UTF-8 text.
    unfilled = b"\xff" * UNPACKED_PIECE
    buffer = bytearray(UNPACKED_PIECE)
    while True:
        buffer[:] = unfilled
        try:
            n = stream.readinto(buffer)
        except (OSError, pa.ArrowException) as error:
            if source.error is not None:
                raise source.error from None
            yield bytes(buffer.rstrip(b"\xff"))
            words = str(error)
            for sign, what in (("Truncated", "cut off"), ("checksum", "has a bad checksum")):
                if sign in words:
                    raise Damaged(what) from None
            raise Damaged("needs too much memory" if "memory" in words else "damaged") from None
        if not n:
            return
        yield bytes(buffer[:n])
