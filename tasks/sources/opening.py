"""Open a raw file for its first look: unpack it, once or twice, and name the formats that are not read."""

from __future__ import annotations

from typing import BinaryIO

from tasks.sources import signatures, streams
from tasks.sources.file_checks import Unreadable
from tasks.sources.settings import ReadConfig

HEAD_BYTES = 1 << 16


def limits(config: ReadConfig) -> streams.Limits:
    return streams.Limits(max_bytes=config.max_unpacked_gb << 30, max_ratio=config.max_unpacked_ratio)


def opened(
    raw: BinaryIO, packing: str | None, member: streams.Member | None, config: ReadConfig
) -> tuple[streams.Unpacked, bytes, str | None]:
    """Return (the unpacked file, its first bytes, its inner packing if it is packed twice)."""
    at, inner = raw.tell(), None
    unpacked = streams.unpacked(raw, packing, limits(config), member)
    start = unpacked.read(HEAD_BYTES) or b""
    if packing and (inner := streams.packing(start)):
        if inner == "zip":
            raise Unreadable(f"packed twice, a zip file inside {packing}", "unpack it once")
        raw.seek(at)
        unpacked = streams.unpacked(raw, packing, limits(config), member, inner)
        start = unpacked.read(HEAD_BYTES) or b""
        if streams.packing(start):
            raise Unreadable(f"packed three times or more, the last time with {packing}", "unpack it once")
    if not start:
        raise Unreadable(unpacked.damage or "the file unpacks to nothing", "write or copy it again")
    if words := signatures.recognized(start):
        raise Unreadable(f"this is {words[0]}" if words[0].startswith(("a ", "an ")) else words[0], words[1])
    return unpacked, start, inner
