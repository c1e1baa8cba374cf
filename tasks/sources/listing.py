"""Decide for each name in a folder whether it is read, tried or left out, so that nothing is left out in silence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from tasks.sources import signatures, table_formats

PACKED = (".gz", ".gzip", ".bz2", ".xz", ".zst", ".zstd", ".zip")
ENDINGS = (".parquet", ".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson")
HEAD = 512  # bytes that tell a tar archive

NAME_IT = "to read it anyway, name the file itself"
_COPIES = (".bak", ".old", ".orig", ".tmp", ".temp", ".part", ".partial", ".crdownload", ".swp")
_ARCHIVES = (".tar", ".tgz", ".tbz2", ".txz", ".tzst")


@dataclass(frozen=True)
class Entry:
    """A name in a folder. problem: why it is not read, None if it is; fix: what to do about that.

    left_out: it is another kind of file, not a damaged review file. doubtful: neither its name nor its first bytes show
    that it holds reviews; it is left out if it cannot be read.
    """

    name: str
    problem: str | None = None
    left_out: bool = False
    doubtful: bool = False
    fix: str = NAME_IT


def ending(name: str) -> str:
    """Return the ending that names the format: for a packed file, the one before .gz and the like."""
    path = PurePosixPath(name.lower())
    while path.suffix in PACKED:
        if path.suffix == ".zip" and PurePosixPath(path.stem).suffix not in (*ENDINGS, *PACKED):
            return ".zip"
        path = path.with_suffix("")
    return path.suffix


def entries(names: Mapping[str, Entry | None], head: Callable[[str], bytes]) -> list[Entry]:
    """Judge the names in a folder, in their order; that of a folder that is not entered ends in a slash.

    A name may have its entry already. `head` returns the first bytes of a file, where its ending tells nothing."""
    tables = table_formats.roots(names)
    judged: dict[str, Entry] = {}
    for name, known in names.items():
        table = table_formats.root_of(name, tables)
        if table is None:
            entry = known or _entry(name, head)
        else:
            entry = Entry(f"{table}/", table_formats.reason(tables[table]), fix=table_formats.FIX)
        judged.setdefault(entry.name, entry)
    return list(judged.values())


def _entry(name: str, head: Callable[[str], bytes]) -> Entry:
    parts = PurePosixPath(name).parts
    hidden = next((i for i, part in enumerate(parts) if part[0] in "._"), None)
    if hidden is not None:
        folder = "/" if name.endswith("/") or hidden + 1 < len(parts) else ""
        reason = "names that begin with a dot or an underscore are skipped"
        return Entry("/".join(parts[: hidden + 1]) + folder, reason, left_out=True)
    kind = ending(name)
    if kind in (*ENDINGS, ".zip"):
        return Entry(name)
    if kind in _COPIES or name.endswith("~"):
        return Entry(name, f"its ending, {kind or '~'}, is that of a copy or of half a file", left_out=True)
    if kind in _ARCHIVES:
        return Entry(name, "{}: {}".format(*signatures.TAR), left_out=True)
    start = head(name)
    if start[:4] == b"PAR1":
        return Entry(name)
    if words := signatures.recognized(start):
        return Entry(name, "{}: {}".format(*words), left_out=True)
    if kind in (".xlsx", ".xlsm", ".xlsb"):
        return Entry(name, "{}: {}".format(*signatures.EXCEL), left_out=True)
    if kind:
        reason = f"its ending, {PurePosixPath(name).suffix}, is none of those that are read; {NAME_IT}"
        return Entry(name, reason, left_out=True)
    return Entry(name, doubtful=True)
