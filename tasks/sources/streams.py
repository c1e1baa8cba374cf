"""Unpack raw files to plain bytes.

`Unpacked` reads gzip, bzip2, xz, zstd and members of a zip in a few MiB of memory (zstd adds its frames' window, at
most 128 MiB, and xz its dictionary, at most 256 MiB). Damage raises no error: every byte that can be unpacked is
returned, then end of file, and `damage` holds the reason. Errors of the raw file itself (a lost connection) are raised
unchanged.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Literal, cast

from tasks.sources.decompress import Damaged, Feed, bunzip2, inflate, one_after_another, unxz, unzstd

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Packing = Literal["gzip", "bzip2", "xz", "zstd", "zip"]

RATIO_COUNTS_FROM = 64 << 20  # small files may have any ratio
XZ_MAGIC = b"\xfd7zXZ\x00"
_BZIP2_NEXT = (b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90")  # the first block, or the end of an empty one


def packing(start: bytes) -> Packing | None:
    """Detect the packing from a file's first ten bytes or more; None if it is unpacked or the packing is unknown."""
    if start[:2] == b"\x1f\x8b":
        return "gzip"
    if re.match(rb"BZh[1-9]", start) and any(magic.startswith(start[4:10]) for magic in _BZIP2_NEXT):
        return "bzip2"
    if start[:6] == XZ_MAGIC:
        return "xz"
    if start[:4] == b"\x28\xb5\x2f\xfd" or re.match(rb"[\x50-\x5f]\x2a\x4d\x18", start):  # or a skippable frame first
        return "zstd"
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"):
        return "zip"
    return None


def in_words(size: int) -> str:
    """Format a number of bytes: "104.3 MB", "64 GB" (powers of 1,024), "900 bytes"."""
    for unit, name in ((1 << 30, "GB"), (1 << 20, "MB")):
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size:,} bytes"


@dataclass(frozen=True)
class Limits:
    """Limits of unpacking: bytes in all, and bytes per packed byte (checked from 64 MiB of output on)."""

    max_bytes: int
    max_ratio: int


@dataclass(frozen=True)
class Member:
    """A file in a zip, from the zip's directory. `problem` is the reason if it cannot or must not be read."""

    name: str
    size: int
    packed: int
    offset: int
    method: int
    crc: int
    problem: str | None = None


class Unpacked(io.RawIOBase):
    """The plain bytes of `raw` from its current position on. Closing this leaves `raw` open.

    A read returns the full size except at the end. The bytes, and where a limit strikes, do not depend on the sizes of
    the reads. `packing` None passes `raw` through without limits. A zip needs a seekable `raw` and the member: its
    name, or (much faster in a large zip) one of `members`.
    """

    def __init__(self, raw: BinaryIO, packing: str | None, limits: Limits, member: str | Member | None = None) -> None:
        super().__init__()
        self.damage: str | None = None
        self.unpacked_bytes = 0
        self._feed = Feed(raw)
        self._rest = memoryview(b"")
        self._failure: Exception | None = None
        if packing is None:
            self._pieces = iter(self._feed.take, b"")
        else:
            self._pieces = self._limited(_unpack(self._feed, packing, member), packing, limits)

    @property
    def packed_bytes(self) -> int:
        """The bytes of the raw file that were read so far."""
        return self._feed.taken

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        if self.closed:
            raise ValueError("read of a closed file")
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view):
            if not self._rest:
                if (piece := self._next_piece()) is None:
                    break
                self._rest = memoryview(piece)
            n = min(len(view) - filled, len(self._rest))
            view[filled : filled + n] = self._rest[:n]
            self._rest = self._rest[n:]
            filled += n
        return filled

    def _next_piece(self) -> bytes | None:
        if self._failure is not None:
            raise self._failure  # a generator that raised is exhausted: a second read must not look like end of file
        try:
            return next(self._pieces, None)
        except Exception as error:
            self._failure = error
            raise

    def _limited(self, pieces: Iterator[bytes], name: str, limits: Limits) -> Iterator[bytes]:
        """Yield `pieces` up to the damage or a limit, and record either in `damage`."""
        try:
            for piece in pieces:
                room = limits.max_bytes - self.unpacked_bytes
                self.unpacked_bytes += min(len(piece), room)
                yield piece[:room]
                if len(piece) > room:
                    self.damage = f"unpacks to more than {in_words(limits.max_bytes)} (limit max_unpacked_gb)"
                    return
                if self.unpacked_bytes > max(RATIO_COUNTS_FROM, limits.max_ratio * self.packed_bytes):
                    self.damage = f"grows more than {limits.max_ratio}-fold when unpacked (limit max_unpacked_ratio)"
                    return
            if not self._feed.taken and name != "zip":
                raise Damaged("cut off")
        except Damaged as damage:
            self.damage = f"{name} data {damage} after {self.unpacked_bytes:,} unpacked bytes"


class UnpackedTwice(Unpacked):
    """The plain bytes of a file that was packed twice: first with `inner`, then with `packing`.

    The limits hold for both steps, and that on growth for both together."""

    def __init__(
        self, raw: BinaryIO, packing: str, inner: str, limits: Limits, member: str | Member | None = None
    ) -> None:
        self._outer = Unpacked(raw, packing, limits, member)
        super().__init__(cast(BinaryIO, self._outer), inner, limits)

    @property
    def packed_bytes(self) -> int:
        return self._outer.packed_bytes

    def _next_piece(self) -> bytes | None:
        piece = super()._next_piece()
        if piece is None:
            self.damage = self._outer.damage or self.damage
        return piece


def unpacked(
    raw: BinaryIO, packing: str | None, limits: Limits, member: str | Member | None = None, inner: str | None = None
) -> Unpacked:
    """Return the plain bytes of a file, packed once, twice or not at all."""
    if packing and inner:
        return UnpackedTwice(raw, packing, inner, limits, member)
    return Unpacked(raw, packing, limits, member)


def _unpack(feed: Feed, packing: str, member: str | Member | None) -> Iterator[bytes]:
    if packing == "gzip":
        return one_after_another(feed, b"\x1f\x8b", inflate)
    if packing == "bzip2":
        return one_after_another(feed, b"BZh", bunzip2)
    if packing == "xz":
        return one_after_another(feed, XZ_MAGIC, unxz)
    if packing == "zstd":
        return unzstd(feed)
    if packing == "zip" and member is not None:
        return _unzip(feed, member)
    raise ValueError(f"cannot unpack {packing!r}" + (" without a member's name" if packing == "zip" else ""))


def _unzip(feed: Feed, which: str | Member) -> Iterator[bytes]:
    """Unpack one member. zipfile would unpack bzip2 without bounds and drop the last piece before a bad checksum."""
    member = _find(feed.raw, which) if isinstance(which, str) else which
    if member.problem:
        raise Damaged(f"cannot be read ({member.problem})")
    feed.raw.seek(member.offset)
    header = Feed(feed.raw).take(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise Damaged("damaged (the directory points to no member)")
    start = member.offset + 30 + sum(struct.unpack("<HH", header[26:30]))
    feed.raw = cast(BinaryIO, Slice(feed.raw, start, start + member.packed))
    if member.method == zipfile.ZIP_STORED:
        pieces: Iterator[bytes] = iter(feed.take, b"")
    elif member.method == zipfile.ZIP_DEFLATED:
        pieces = inflate(feed, b"", wbits=-15)
    else:
        pieces = bunzip2(feed, None)
    size, crc = 0, 0
    for piece in pieces:
        size, crc = size + len(piece), zlib.crc32(piece, crc)
        yield piece
    if size < member.size:
        raise Damaged("cut off")
    if (size, crc) != (member.size, member.crc):
        raise Damaged("has a bad checksum")


def _find(raw: BinaryIO, name: str) -> Member:
    try:
        found = [m for m in members(raw) if m.name == name]
    except ValueError as error:
        raise Damaged(f"cannot be read ({error})") from None
    if not found:
        raise Damaged(f"cannot be read (no member {name!r})")
    return found[-1]


def members(raw: BinaryIO) -> list[Member]:
    """List the files in a zip, without folders, dot files and macOS metadata. Raises ValueError without a directory."""
    try:
        infos = zipfile.ZipFile(raw).infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError) as error:
        raise ValueError(f"this zip file has no readable directory ({error}): it may be cut off") from None
    infos.sort(key=lambda info: info.header_offset)
    found: dict[str, Member] = {}
    end = 0
    for info in infos:
        overlaps, end = info.header_offset < end, max(end, info.header_offset + 30 + info.compress_size)
        parts = re.split(r"[/\\]", info.filename)
        if info.is_dir() or "__MACOSX" in parts or any(p.startswith(".") and p.strip(".") for p in parts):
            continue
        problem = "it overlaps another member: a zip bomb" if overlaps else _problem(info, parts)
        found[info.filename] = Member(
            info.filename, info.file_size, info.compress_size, info.header_offset, info.compress_type, info.CRC, problem
        )
    return sorted(found.values(), key=lambda member: member.name)


def _problem(info: zipfile.ZipInfo, parts: list[str]) -> str | None:
    if info.flag_bits & 0x1:
        return "it is encrypted"
    if not parts[0] or ":" in parts[0] or ".." in parts:
        return "its name leads out of the archive"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "it is a symbolic link"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        return f"it is packed in a way that cannot be read (method {info.compress_type})"
    return None


class Slice(io.RawIOBase):
    """The bytes [start, end) of a seekable binary file, as a file. Several may share one file in one thread."""

    def __init__(self, raw: BinaryIO, start: int, end: int) -> None:
        super().__init__()
        self._raw, self._start, self._end, self._at = raw, start, end, start

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        self._raw.seek(self._at)
        data = self._raw.read(max(0, min(len(view), self._end - self._at))) or b""
        view[: len(data)] = data
        self._at += len(data)
        return len(data)
