"""A folder that grows: each new file once, when it is whole, whatever its name.

    folder = Folder(Path("incoming"), ledger=Path("taken.jsonl"))
    for file in folder.look():              # now and then; a file is found at the second look after its last change
        score(file.path, f"{file.sha256}.parquet")
        folder.take_note(file)

A file is known by the sha256 of its content: a copy under another name is not new, other content under a known name is.
What was taken is written to a ledger, one line a file, synced before `take_note` returns; a run that was killed before
that gives the file again, so what is made of it should have a name made from its sha256.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.digests import file_sha256
from tasks.core.errors import InputError
from tasks.core.snapshot_files import DRAFT

UNFINISHED = (DRAFT, ".tmp", ".part", ".partial", ".crdownload", ".unfinished")


@dataclass(frozen=True)
class NewFile:
    """A whole file that was not taken before."""

    path: Path
    sha256: str


class Folder:
    """The files below `folder`, and the ledger of those that were taken.

    A file is whole if neither its size nor its time changed since the last look, and, for parquet, its footer can be
    read. Files whose names begin with a dot or say that they are unfinished are left alone. One process at a time.
    unreadable: those that the last look was not permitted to read; the next one tries again.
    """

    def __init__(self, folder: Path, ledger: Path) -> None:
        if not folder.is_dir():
            raise InputError("no such folder", where=str(folder))
        self._folder, self._ledger = folder, ledger
        self.unreadable: set[Path] = set()
        self._taken = {line["sha256"] for line in _read(ledger)}
        self._last: dict[Path, tuple[int, int]] = {}  # size and time at the last look
        self._known: dict[Path, tuple[int, int]] = {}  # of files that were hashed and are not new

    def look(self, most: int | None = None) -> list[NewFile]:
        """Return the whole files that are new, by name, at most so many; a file is given until it is taken note of."""
        found: list[NewFile] = []
        now: dict[Path, tuple[int, int]] = {}
        given: set[str] = set()
        self.unreadable = set()
        for path in sorted(self._candidates()):
            try:
                if not path.is_file():
                    continue
                status = path.stat()
                state = status.st_size, status.st_mtime_ns
                now[path] = state
                if self._last.get(path) != state or self._known.get(path) == state or len(found) == most:
                    continue
                if not _is_whole(path):
                    continue
                digest = file_sha256(path)
            except FileNotFoundError:  # moved away meanwhile
                continue
            except PermissionError:
                self.unreadable.add(path)
                continue
            if digest in self._taken or digest in given:
                self._known[path] = state
            else:
                given.add(digest)
                found.append(NewFile(path, digest))
        self._last = now
        return found

    def is_taken(self, file: NewFile) -> bool:
        return file.sha256 in self._taken

    def take_note(self, file: NewFile, **more: str) -> None:
        """Remember a file as taken, durably. more: what else the ledger says of it."""
        self._ledger.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"sha256": file.sha256, "name": str(file.path), **more}) + "\n"
        with self._ledger.open("ab") as out:
            out.write(line.encode())
            out.flush()
            os.fsync(out.fileno())
        self._taken.add(file.sha256)
        if state := self._last.get(file.path):
            self._known[file.path] = state  # not to be read again, unless it has changed since the last look

    def _candidates(self) -> Iterator[Path]:
        for path in self._folder.rglob("*"):
            hidden = any(part.startswith(".") for part in path.relative_to(self._folder).parts)
            if path != self._ledger and not hidden and not path.name.endswith(UNFINISHED):
                yield path


def _is_whole(path: Path) -> bool:
    if path.suffix != ".parquet":
        return path.stat().st_size > 0
    try:
        pq.read_metadata(path)
    except (FileNotFoundError, PermissionError):
        raise
    except (pa.ArrowInvalid, OSError):  # its footer comes last
        return False
    return True


def _read(ledger: Path) -> Iterator[dict[str, str]]:
    """Read the ledger and cut off a last line that a killed process did not finish."""
    if not ledger.exists():
        return
    content = ledger.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with ledger.open("r+b") as file:
            file.truncate(whole)
    for number, line in enumerate(content[:whole].splitlines(), 1):
        try:
            yield {"sha256": json.loads(line)["sha256"]}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"line {number} is not one of ours", where=str(ledger), fix="remove it: all files are taken again"
            ) from error
