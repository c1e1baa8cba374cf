"""A log as Kafka has it, behind an interface, and one in files; `stream_kafka` has Kafka itself.

Records are bytes, numbered from 0 by *offset* as they are appended. A reader reads from any offset; a *group* of
readers notes the offset that it has done with (`commit`), and goes on there after a restart. Between the work and the
commit a kill makes a record be read again: at least once, so results carry offsets.

In files: `records.log` holds frames of length, CRC-32, time of appending (milliseconds since 1970) and the record;
`GROUP.offset` the committed offset, replaced atomically. A frame that a kill cut short is cut off by the next writer,
and no reader sees it. One writer at a time, by a lock; any number of readers. It is meant for tests, for one machine
and for moderate sizes: a whole log is one file, whose frames are indexed in memory.
"""

from __future__ import annotations

import errno
import os
import re
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

import numpy as np
import pyarrow as pa

from tasks.core import faults, locks
from tasks.core.errors import InputError, RunError
from tasks.core.snapshot_files import fsync_folder
from tasks.core.whole_files import write_whole
from tasks.parallel.stream_arrivals import Times

HEAD = struct.Struct("<IIq")  # length, CRC-32 of time and record, milliseconds


@dataclass(frozen=True)
class Record:
    """A record at its offset; `time`: seconds since 1970 at which it was appended."""

    offset: int
    time: float
    value: bytes


class Log(Protocol):
    """One partition of a topic. Offsets are consecutive."""

    def append(self, values: Sequence[bytes]) -> int:
        """Append records durably; returns the offset of the first."""

    def end(self) -> int:
        """Return the offset that the next record will have."""

    def read(self, offset: int, most: int) -> list[Record]:
        """Return at most so many records from an offset on; none at the end."""

    def times(self, first: int, end: int) -> Times:
        """Return when the records from one offset to another (not included) were appended, in seconds since 1970."""

    def committed(self, group: str) -> int:
        """Return the offset at which a group goes on; that of the first record for a new one."""

    def commit(self, group: str, offset: int) -> None:
        """Note durably that a group has done with all records before this offset."""


class FileLog:
    """The log in a folder; `writing` takes the lock, and RunError says who waits if another holds it."""

    def __init__(self, folder: Path, *, writing: bool = False, now: Callable[[], float] = time.time) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._now = folder, now
        self._starts: list[int] = []  # where each frame begins
        self._times: list[float] = []
        self._scanned = 0  # bytes
        self._writer: IO[bytes] | None = None
        if writing:
            self._writer = self._path.open("ab", buffering=0)
            if not locks.take(self._writer, wait=False):
                self._writer.close()
                raise RunError("another process appends to this log", where=str(folder), fix="end it first")
            fsync_folder(folder)
            self._scan()
            self._writer.truncate(self._scanned)  # what a kill cut short

    def __enter__(self) -> FileLog:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._writer:
            self._writer.close()

    @property
    def _path(self) -> Path:
        return self._folder / "records.log"

    def append(self, values: Sequence[bytes]) -> int:
        if self._writer is None:
            raise RunError("this log was opened to be read", where=str(self._folder), fix="writing=True")
        first, milliseconds = self.end(), int(self._now() * 1000)
        frames = [HEAD.pack(len(value), _sum(milliseconds, value), milliseconds) + value for value in values]
        data = b"".join(frames)
        try:
            if self._writer.write(data) != len(data):  # as unbuffered files do, without an error, where a disk fills up
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            faults.point("log", "written")
            os.fsync(self._writer.fileno())
        except OSError:  # a full disk: half a frame would hide all that come after it
            self._writer.truncate(self._scanned)
            raise
        return first

    def end(self) -> int:
        self._scan()
        return len(self._starts)

    def read(self, offset: int, most: int) -> list[Record]:
        if offset < 0 or offset > self.end():
            raise InputError(f"offset {offset} of a log that ends at {self.end()}", where=str(self._folder))
        wanted = range(offset, min(offset + most, self.end()))
        if not wanted:
            return []
        with self._path.open("rb") as file:
            return [self._read_at(file, offset) for offset in wanted]

    def times(self, first: int, end: int) -> Times:
        return np.array(self._times[first:end])

    def committed(self, group: str) -> int:
        path = self._group(group)
        return int(path.read_text()) if path.exists() else 0

    def commit(self, group: str, offset: int) -> None:
        if not 0 <= offset <= self.end():
            raise InputError(f"offset {offset} of a log that ends at {self.end()}", where=f"group {group}")
        faults.point("log", "commit")
        write_whole(self._group(group), str(offset), synced=True)

    def _group(self, group: str) -> Path:
        check_group(group)
        return self._folder / f"{group}.offset"

    def _read_at(self, file: IO[bytes], offset: int) -> Record:
        file.seek(self._starts[offset])
        length, _, milliseconds = HEAD.unpack(file.read(HEAD.size))
        return Record(offset, milliseconds / 1000, file.read(length))

    def _scan(self) -> None:
        """Index the frames that came since the last scan, up to the first that is not whole."""
        if not self._path.exists() or self._path.stat().st_size <= self._scanned:
            return
        with self._path.open("rb") as file:
            file.seek(self._scanned)
            while len(head := file.read(HEAD.size)) == HEAD.size:
                length, checksum, milliseconds = HEAD.unpack(head)
                value = file.read(length)
                if len(value) < length or _sum(milliseconds, value) != checksum:
                    break
                self._starts.append(self._scanned)
                self._times.append(milliseconds / 1000)
                self._scanned += HEAD.size + length


class LogSource:
    """The records of a log as the source of a stream, from where the group left off; commits what is done with.

    decode: records -> their rows, one each. poll_s: how often to look for more. until: the offset at which the stream
    ends; None: never. Numbers of the stream are offsets less `first`.
    """

    def __init__(
        self,
        log: Log,
        group: str,
        decode: Callable[[Sequence[bytes]], pa.Table],
        *,
        poll_s: float = 0.05,
        until: int | None = None,
    ) -> None:
        self._log, self._group, self._decode, self._poll_s, self._until = log, group, decode, poll_s, until
        self.first = self._end = log.committed(group)
        self._look_at = -inf

    def arrived(self, now: float) -> int:
        if now >= self._look_at:  # a stream asks every few milliseconds, and the log may be far away
            self._end, self._look_at = self._log.end(), now + self._poll_s
        return max(0, (self._end if self._until is None else min(self._end, self._until)) - self.first)

    def next_arrival(self, now: float) -> float | None:
        complete = self._until is not None and self._end >= self._until
        return None if complete else max(now, self._look_at)

    def take(self, first: int, end: int) -> pa.Table:
        return self._decode([record.value for record in self._log.read(self.first + first, end - first)])

    def times(self, first: int, end: int) -> Times:
        return self._log.times(self.first + first, self.first + end)

    def done(self, end: int) -> None:
        self._log.commit(self._group, self.first + end)


def check_group(group: str) -> None:
    """Raise InputError for what is no name of a group."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", group):
        raise InputError(f"{group!r} is no name of a group", where="log", fix="letters, digits, - and _")


def _sum(milliseconds: int, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(struct.pack("<q", milliseconds)))
