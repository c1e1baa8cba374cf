"""Which files of a folder that grows are scored next: batches of new files, each file in one batch, through kills.

    OUT/taken.jsonl          the files that are done, one a line: sha256, path, batch, and the problem if there was one
    OUT/batch-000001.json    the files of a batch, written before it is scored
    OUT/batch-000001/        its predictions, as `raymill score` writes them

A batch whose files are not in taken.jsonl was interrupted: it comes first after a restart, under the same name, so that
its predictions replace what it has left. `tasks.parallel.stream_folder` says when a file is whole and what is new.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.run.scoring import ABOUT, check_place
from tasks.core.digests import file_sha256
from tasks.core.errors import InputError
from tasks.core.whole_files import write_whole
from tasks.parallel.stream_folder import Folder, NewFile
from tasks.settings import Settings

LEDGER = "taken.jsonl"
LOCK = ".follow.lock"  # held by the one process that follows into a folder


@dataclass(frozen=True)
class Batch:
    """Files that are scored at once. folder: of their predictions."""

    folder: Path
    files: tuple[NewFile, ...]

    @property
    def listed(self) -> Path:
        return self.folder.with_suffix(".json")

    @property
    def paths(self) -> list[str]:
        return [str(file.path) for file in self.files]


class Following:
    """A folder that grows and the folder of its predictions. files: of a batch, at most."""

    def __init__(self, folder: Path, out: Path, files: int) -> None:
        self.out, self.files = out, files
        self._folder = Folder(folder.absolute(), out / LEDGER)
        self._alone: deque[NewFile] = deque()  # files of a batch that failed
        self._number = max((int(path.stem.partition("-")[2]) for path in out.glob("batch-*.json")), default=0)

    def next(self) -> Batch | None:
        """Return the batch to score next, None if there are no new files yet."""
        if (batch := self._interrupted()) is not None:
            return batch
        if self._alone:
            return self._begun([self._alone.popleft()])
        found = self._folder.look(self.files)
        return self._begun(found) if found else None

    @property
    def unreadable(self) -> set[Path]:
        """The files that this user may not read, as of the last look."""
        return self._folder.unreadable

    def _begun(self, files: Sequence[NewFile]) -> Batch:
        self._number += 1
        batch = Batch(self.out / f"batch-{self._number:06d}", tuple(files))
        listed = [{"sha256": file.sha256, "name": str(file.path)} for file in files]
        write_whole(batch.listed, json.dumps(listed, indent=1), synced=True)
        return batch

    def _interrupted(self) -> Batch | None:
        """Return the last batch if it is not done, with those of its files that are still there."""
        last = Batch(self.out / f"batch-{self._number:06d}", ())
        if not last.listed.exists():
            return None
        listed = [NewFile(Path(one["name"]), one["sha256"]) for one in _read_list(last.listed)]
        left = [file for file in listed if not self._folder.is_taken(file)]
        if not left:
            return None
        if len(left) < len(listed) or is_finished(last.folder):  # killed while its files were taken note of
            self.done(Batch(last.folder, tuple(left)))
            return None
        there = [file for file in left if _is_there(file)]
        self._number -= 1
        if not there:  # moved or rewritten: it comes again as a new file
            last.listed.unlink()
            return None
        return self._begun(there)

    def done(self, batch: Batch, problem: str = "") -> None:
        """Take note of a batch that is scored, or of one file that cannot be."""
        for file in batch.files:
            self._folder.take_note(file, batch=batch.folder.name, **({"problem": problem} if problem else {}))

    def split(self, batch: Batch) -> None:
        """Give the files of a batch that failed one by one: the fault may be one's."""
        batch.listed.unlink()
        self._number -= 1
        self._alone.extend(batch.files)


def check_out(out: Path, settings: Settings) -> None:
    """Raise InputError if `out` is no folder to follow into: an address, within the input, or of something else."""
    check_place(out, settings)
    if not out.exists() or (out / LEDGER).exists() or any(out.glob("batch-*.json")):
        return
    # A draft: of the first list of a batch, whose writer was killed.
    if not out.is_dir() or any(entry.name != LOCK and not entry.match("batch-*.json.draft") for entry in out.iterdir()):
        raise InputError(
            f"{out} exists and is not of raymill score --follow", where="--out", fix="give a new or empty folder"
        )


def is_finished(folder: Path) -> bool:
    """Whether a folder holds all predictions of its batch."""
    about = folder / ABOUT
    return about.exists() and bool(json.loads(about.read_text())["finished"])


def _is_there(file: NewFile) -> bool:
    try:
        return file.path.is_file() and file_sha256(file.path) == file.sha256
    except (FileNotFoundError, PermissionError):
        return False


def _read_list(file: Path) -> list[dict[str, str]]:
    try:
        listed: list[dict[str, str]] = [
            {"name": one["name"], "sha256": one["sha256"]} for one in json.loads(file.read_text())
        ]
    except (ValueError, KeyError, TypeError):
        raise InputError(
            "this is no list of a batch", where=str(file), fix="remove it: its files are taken again"
        ) from None
    return listed
