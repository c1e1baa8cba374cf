"""Snapshots: immutable, committed outputs of stages, on disk.

    ROOT/STAGE/KEY/manifest.json           published last, create-if-absent; all that readers trust
    ROOT/STAGE/KEY/attempt-ID/part-00000.parquet
    ROOT/STAGE/KEY/attempt-ID/rejects/part-00000.parquet
    ROOT/STAGE/KEY/attempt-ID/model.ubj

A table is the parquet files of one folder of the attempt: "" is the main table, "rejects" and "train" are others. A
snapshot's digest covers its content alone (file names, sizes, row counts, sha256, counts and facts), so the same
content computed in two ways has the same digest. No directory is ever renamed, so the protocol works on object storage
too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from tasks.core.errors import RowsLost, SnapshotCorrupt
from tasks.core.progress import Reporter
from tasks.core.snapshot_files import FileEntry, FileSink, Record, linked

FORMAT = 1
SCRATCH = "scratch"  # folder beside the attempts


class InputRef(Record):
    """An input of a snapshot. `stage` is "source" for raw files, which have no key.

    `contents`: what raw files the digest covers, a short digest each, by kind and name; for `plan` and `diff` alone.
    """

    name: str
    stage: str
    key: str
    digest: str
    contents: dict[str, dict[str, str]] = Field(default_factory=dict)


class PartRecord(Record):
    """The output of one part of a stage's input: its files' names, and small JSON values about it.

    A later snapshot of the same stage with the same part reuses the files (`SnapshotWriter.reuse_part`).
    """

    files: tuple[str, ...]
    about: Any = None


class Provenance(Record):
    """What a snapshot was made from, and by: all that its key covers.

    `modules` of the code and files that were `read`, each with a digest, are kept for `plan` and `diff` alone;
    manifests of earlier versions have none.
    """

    format: int = FORMAT
    stage: str
    inputs: tuple[InputRef, ...]
    config: dict[str, Any]
    code: dict[str, str]
    modules: dict[str, str] = Field(default_factory=dict)
    read: dict[str, str] = Field(default_factory=dict)


class Manifest(Provenance):
    """The description of a snapshot. `digest` covers only `files`, `counts`, `facts` and `stage`.

    `validation`: what the validation found, its warnings among it.
    """

    key: str
    digest: str
    attempt: str
    files: tuple[FileEntry, ...]
    schemas: dict[str, list[str]]
    parts: dict[str, PartRecord] = Field(default_factory=dict)
    counts: dict[str, int]
    facts: dict[str, Any]
    validation: dict[str, Any] = Field(default_factory=dict)
    config_digest: str
    deterministic: bool
    seconds: dict[str, float]
    committed_at: str

    def text(self) -> str:
        """Return the published form: JSON."""
        return json.dumps(self.model_dump(), indent=1, sort_keys=True)


@dataclass(frozen=True)
class Snapshot:
    """A committed snapshot: a path and a digest. This is all that travels between tasks."""

    stage: str
    key: str
    digest: str
    folder: str  # ROOT/STAGE/KEY

    @property
    def manifest(self) -> Manifest:
        return load_manifest(Path(self.folder) / "manifest.json")

    @property
    def root(self) -> Path:
        return Path(self.folder) / self.manifest.attempt

    @property
    def facts(self) -> dict[str, Any]:
        return self.manifest.facts

    def entries(self, table: str = "") -> list[FileEntry]:
        return [e for e in self.manifest.files if e.table == table and e.rows is not None]

    def files(self, table: str = "") -> list[Path]:
        """List the parquet files of one table, in row order."""
        return [self.root / e.name for e in self.entries(table)]

    def path(self, name: str) -> Path:
        """Return the path of one file of this snapshot."""
        if not any(e.name == name for e in self.manifest.files):
            raise SnapshotCorrupt(f"no file {name!r} in the manifest", where=self.folder)
        return self.root / name

    def rows(self, table: str = "") -> int:
        return sum(e.rows or 0 for e in self.entries(table))

    def read(self, table: str = "", columns: Sequence[str] | None = None) -> pa.Table:
        """Read a whole table into memory, in row order: for small tables only, or in workers."""
        return read_tables(self.files(table), columns)

    def __str__(self) -> str:
        return f"{self.stage}@{self.digest[:12]}"


def read_tables(files: Iterable[Path], columns: Sequence[str] | None = None) -> pa.Table:
    """Read several parquet files as one Arrow table."""
    # One file at a time: pyarrow's dataset reader would read folder names as partition keys.
    return pa.concat_tables([pq.ParquetFile(f).read(columns=list(columns) if columns else None) for f in files])


def load_manifest(path: Path) -> Manifest:
    """Read a published manifest. It never changes once published, so it is parsed once."""
    return _parse_manifest(path, path.stat().st_ino, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _parse_manifest(path: Path, _inode: int, _mtime_ns: int) -> Manifest:
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise SnapshotCorrupt(f"not a manifest: {error}", where=str(path), fix="remove this folder") from error


@dataclass(frozen=True)
class EarlierPart:
    """A part of a committed snapshot, and the folder of its files."""

    root: Path
    entries: tuple[FileEntry, ...]
    about: Any


@dataclass
class SnapshotWriter:
    """The writer of a stage's output. Nothing written is visible before the commit."""

    stage: str
    key: str
    folder: Path
    attempt: str
    lock: IO[bytes]
    entries: list[FileEntry] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, PartRecord] = field(default_factory=dict)
    aside: set[str] = field(default_factory=lambda: {"rejects"})
    earlier: Callable[[str], EarlierPart | None] = lambda _: None
    reporter: Reporter = field(default_factory=Reporter)

    @property
    def root(self) -> Path:
        return self.folder / self.attempt

    @property
    def sink(self) -> FileSink:
        return FileSink(str(self.root))

    @property
    def scratch(self) -> Path:
        """A folder beside the attempts that outlives the process, for the state a stage resumes from."""
        path = self.folder / SCRATCH
        path.mkdir(parents=True, exist_ok=True)
        return path

    def add(self, entries: Iterable[FileEntry | None]) -> None:
        """Add files that workers wrote through `sink`. None is skipped."""
        self.entries.extend(e for e in entries if e is not None)

    def part(self, identity: str, entries: Sequence[FileEntry], about: Any = None) -> None:
        """Add the files of one part of the input, which a later snapshot with the same part may reuse."""
        self.add(entries)
        self.parts[identity] = PartRecord(files=tuple(e.name for e in entries), about=about)

    def reuse_part(self, identity: str, index: int) -> PartRecord | None:
        """Reuse an earlier snapshot's files of the same part as the index-th part of this one.

        Returns None if there are none. The files are linked, not copied, if the file system allows it.
        """
        if (earlier_part := self.earlier(identity)) is None:
            return None
        taken = []
        for entry in earlier_part.entries:
            name = re.sub(r"part-\d{5}", f"part-{index:05d}", entry.name)
            taken.append(entry.model_copy(update={"name": name}))
            if not linked(earlier_part.root / entry.name, self.root / name, entry.size):
                # The part is made again under these names; writing to a link would change the committed file.
                for link in taken:
                    (self.root / link.name).unlink(missing_ok=True)
                return None
        self.part(identity, taken, earlier_part.about)
        return self.parts[identity]

    def side_table(self, *tables: str) -> None:
        """Exclude these tables from `check_rows`: they hold no rows of the input."""
        self.aside.update(tables)

    def write_table(self, name: str, table: pa.Table, schema: pa.Schema | None = None) -> None:
        self.add([self.sink.write_table(name, table, schema)])

    def write_bytes(self, name: str, data: bytes) -> None:
        self.add([self.sink.write_bytes(name, data)])

    def count(self, **counts: int) -> None:
        """Record counts that belong to the content. With `rows_in` the runner checks that no row was lost."""
        self.counts.update({name: int(value) for name, value in counts.items()})

    def fact(self, **facts: Any) -> None:
        """Record small JSON values that belong to the content: metrics, borders, chosen parameters."""
        self.facts.update(facts)

    def note(self, **notes: Any) -> None:
        """Record small JSON values for this run only, outside the snapshot: timings, progress."""
        self.notes.update(notes)

    def progress(
        self, done: int, total: int, unit: str = "rows", *, measures: Mapping[str, float] | None = None, **amounts: int
    ) -> None:
        """Report progress: `done` of `total` units, running totals of the outputs (tokens=...), and numbers of the
        moment (a loss).

        Cheap, and it never fails: call it after every part, in the stage's thread. A stage that reuses parts notes
        `parts_taken_over` before its first call, so that no rates are shown for it.
        """
        resumed = bool(self.notes.get("parts_taken_over"))
        self.reporter.report(done, total, unit, amounts, resumed=resumed, measures=measures)

    def rows(self, table: str = "") -> int:
        return sum(e.rows or 0 for e in self.entries if e.table == table)

    def files(self, table: str = "") -> list[Path]:
        return [self.root / e.name for e in sorted(self.entries, key=lambda e: e.name) if e.table == table and e.rows]

    def check_rows(self) -> None:
        """Raise RowsLost unless rows in = rows out + rejects + repeats + rows of users to forget.

        Only where the stage counted its rows in.
        """
        if "rows_in" not in self.counts:
            return
        tables = {e.table for e in self.entries if e.rows is not None} - self.aside
        rows_in, rows_out = self.counts["rows_in"], sum(self.rows(t) for t in tables)
        rejects, repeated = self.rows("rejects"), self.counts.get("repeated", 0)
        forgotten = self.counts.get("forgotten", 0)
        if rows_in != rows_out + rejects + repeated + forgotten:
            and_forgotten = f" + {forgotten} to forget" if forgotten else ""
            raise RowsLost(
                f"{rows_in} rows in, but {rows_out} out + {rejects} rejected + {repeated} repeated{and_forgotten}",
                where=self.stage,
                fix="this is a bug in the stage; please report it with the input",
            )
