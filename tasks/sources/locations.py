"""List and open raw files: a file, a folder or a glob, on this machine or in a bucket (s3://, gs://, others by fsspec).

Names are relative to the input, with forward slashes. They decide the order of rows; absolute paths do not.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit, urlunsplit

from tasks.core.errors import InputError
from tasks.core.secrets import masked
from tasks.sources import table_formats
from tasks.sources.listing import ENDINGS, HEAD, NAME_IT, Entry, ending, entries

__all__ = ["ENDINGS", "RawFile", "chunks", "ending", "find", "is_remote", "open_raw"]

WILD = "*?["


@dataclass(frozen=True)
class RawFile:
    """A listed file, or a folder that is not entered, with what its `Entry` tells of it."""

    path: str  # absolute, or a URL
    name: str
    size: int
    problem: str | None = None
    left_out: bool = False
    doubtful: bool = False
    fix: str = NAME_IT


def is_remote(path: str) -> bool:
    return "://" in path


def find(inputs: Sequence[str]) -> list[RawFile]:
    """List the files of these inputs, by input, then by name. Raises InputError where an input has none.

    A file that is named or matches a glob is read whatever its ending; of a folder, only what `listing` takes is. All
    else in it is listed with the reason.
    """
    listed: list[list[RawFile]] = [_remote(i) if is_remote(i) else _local(i) for i in inputs]
    if len(listed) == 1:
        return listed[0]
    several = [
        replace(file, name=f"{_label(given, files)}/{file.name}")
        for given, files in zip(inputs, listed, strict=True)
        for file in files
    ]
    once = {file.path: file for file in several}  # named twice, read once
    names = Counter(file.name for file in once.values())
    return [
        file if names[file.name] == 1 else replace(file, name=f"{n:03d}/{file.name}")
        for n, file in enumerate(once.values())
    ]


def _label(given: str, files: Sequence[RawFile]) -> str:
    """Return the name of the folder that an input is or lies in."""
    path = PurePosixPath(urlsplit(given).path if is_remote(given) else Path(given).expanduser().absolute().as_posix())
    fixed = [p for p in path.parts if not any(c in p for c in WILD)]
    if len(fixed) < len(path.parts):
        return PurePosixPath(*fixed).name
    itself = len(files) == 1 and files[0].name == path.name
    return (itself and path.parent.name) or path.name


def _local(given: str) -> list[RawFile]:
    root = Path(given).expanduser()
    if root.is_file():
        return [_outside_tables(RawFile(str(root.resolve()), root.name, root.stat().st_size))]
    if root.is_dir():
        if table := table_formats.above(root.absolute()):
            return [_table(str(root.absolute()), f"{root.absolute().name}/", table)]
        walked = _walk(root)
        listed = entries(walked, lambda name: _head(str(root / name)))
        _check_any(listed, given)
        return sorted((_of_folder(entry, root) for entry in listed), key=lambda file: Path(file.name))
    if any(c in given for c in WILD):
        parts = root.parts
        wild = next(i for i, part in enumerate(parts) if any(c in part for c in WILD))
        base = Path(*parts[:wild]) if wild else Path()
        matches = sorted(base.glob(str(Path(*parts[wild:]))))
        taken = [p for p in matches if p.is_file()]
        if taken:
            entered = {folder for p in taken for folder in p.parents}
            folders = [p for p in matches if p.is_dir() and p not in entered]
            return [*(_outside_tables(_checked(p, base)) for p in taken), *(_unentered(p, base) for p in folders)]
        raise InputError("no file matches", where=given, fix="quote the pattern in the shell, and check the folder")
    raise InputError("no such file or folder", where=given, fix="check --input (relative paths start where you are)")


def _check_any(listed: Sequence[Entry], given: str) -> None:
    """Raise InputError if a folder holds nothing that is read or damaged."""
    if all(entry.left_out for entry in listed):
        others = sorted({Path(entry.name).suffix or entry.name for entry in listed})
        what = f"no review files in this folder, only {', '.join(others[:5])}" if others else "this folder is empty"
        first = f" ({listed[0].name}: {listed[0].problem})" if others else ""
        raise InputError(what + first, where=given, fix=f"readable endings: {', '.join(ENDINGS)}, each also packed")


def _walk(root: Path) -> dict[str, Entry | None]:
    """List the files below a folder by name, and, with a slash at the end, the folders that are not entered: hidden
    ones, and with their entries links and those that cannot be opened."""
    names: dict[str, Entry | None] = {}

    def skip(folder: Path, reason: str | None, *, left_out: bool) -> None:
        name = f"{folder.relative_to(root).as_posix()}/"
        names[name] = Entry(name, reason, left_out) if reason else None

    def unreadable(error: OSError) -> None:
        skip(Path(error.filename), f"the folder cannot be opened: {error.strerror}", left_out=False)

    for folder, folders, files in os.walk(root, onerror=unreadable):
        here = Path(folder)
        linked = [f for f in folders if (here / f).is_symlink()]
        hidden = [f for f in folders if f[0] in "._" and f not in linked]
        for f in linked:
            skip(here / f, "a linked folder; not followed", left_out=True)
        for f in hidden:
            skip(here / f, None, left_out=True)
        folders[:] = [f for f in folders if f not in linked and f not in hidden]
        names |= dict.fromkeys((here / f).relative_to(root).as_posix() for f in files)
    return names


def _of_folder(entry: Entry, root: Path) -> RawFile:
    if entry.problem:
        return RawFile(str(root.absolute() / entry.name), entry.name, 0, entry.problem, entry.left_out, fix=entry.fix)
    return replace(_checked(root / entry.name, root), doubtful=entry.doubtful)


def _unentered(folder: Path, base: Path) -> RawFile:
    name = f"{folder.relative_to(base).as_posix()}/"
    reason = "a folder, which the pattern matches but not the files in it; end the pattern in /* to read them"
    return RawFile(str(folder.absolute()), name, 0, reason, left_out=True)


def _outside_tables(file: RawFile) -> RawFile:
    """Return the file, with the reason not to read it if it is part of a Delta, Iceberg or Hudi table."""
    table = table_formats.above(Path(file.path).parent)
    return replace(file, problem=table_formats.reason(table), fix=table_formats.FIX) if table else file


def _table(path: str, name: str, kind: str) -> RawFile:
    return RawFile(path, name, 0, table_formats.reason(kind), fix=table_formats.FIX)


def _head(path: str) -> bytes:
    """Return a file's first bytes; none if it cannot be opened, or is a pipe, which would block."""
    if not is_remote(path) and not Path(path).is_file():
        return b""
    try:
        with open_raw(path) as raw:
            return raw.read(HEAD)
    except (InputError, OSError):
        return b""


def _checked(path: Path, root: Path) -> RawFile:
    name = path.relative_to(root).as_posix()
    if not path.is_file():
        return RawFile(str(path.absolute()), name, 0, "a broken link, or not a regular file")
    if not os.access(path, os.R_OK):
        return RawFile(
            str(path.absolute()), name, 0, "it may not be read: permission denied", fix="allow it to be read"
        )
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        return RawFile(str(path.absolute()), name, 0, "a symbolic link out of the folder; not followed")
    return RawFile(str(path.resolve()), name, path.stat().st_size)


def _remote(given: str) -> list[RawFile]:
    from pyarrow import fs

    system, path = _system(given)
    split = urlsplit(given)

    def url(of: str) -> str:
        # Each file's URL needs the credentials and options of the input's URL.
        user = f"{split.netloc.rpartition('@')[0]}@" if "@" in split.netloc else ""
        bucket, _, rest = of.partition("/")
        return f"{split.scheme}://{user}{bucket}/{rest}{'?' if split.query else ''}{split.query}"

    try:
        wild = any(c in path for c in "*[")  # a question mark begins a URL's options
        base = path[: min(path.index(c) for c in "*[" if c in path)].rpartition("/")[0] if wild else path
        info = system.get_file_info(base)
        if not wild and info.type == fs.FileType.File:
            if table := table_formats.above_in_store(system, path):
                return [_table(url(path), PurePosixPath(path).name, table)]
            return [RawFile(url(path), PurePosixPath(path).name, info.size)]
        listing = system.get_file_info(fs.FileSelector(base, recursive=True, allow_not_found=True))
    except OSError as error:
        raise InputError(f"cannot be listed: {_short(error)}", where=given, fix=CREDENTIALS) from None
    files = {PurePosixPath(i.path).relative_to(base).as_posix(): i for i in listing if i.type == fs.FileType.File}
    tables = table_formats.roots(files)
    if table := tables.get("") or table_formats.above_in_store(system, base):
        return [_table(given, f"{PurePosixPath(base).name}/", table)]
    if wild:
        listed = [_matched(n, tables) for n in sorted(files) if fnmatch(files[n].path, path)]
    else:
        listed = entries(dict.fromkeys(sorted(files)), lambda name: _head(url(files[name].path)))
        if listed:
            _check_any(listed, given)
    if not listed:
        raise InputError("no review files at this address", where=given, fix="check the bucket's name and the folder")
    sizes = {entry.name: files[entry.name].size if entry.name in files else 0 for entry in listed}
    return [
        RawFile(url(f"{base}/{e.name}"), e.name, sizes[e.name], e.problem, e.left_out, e.doubtful, e.fix)
        for e in listed
    ]


def _matched(name: str, tables: dict[str, str]) -> Entry:
    table = table_formats.root_of(name, tables)
    return Entry(name) if table is None else Entry(name, table_formats.reason(tables[table]), fix=table_formats.FIX)


CREDENTIALS = "check the address, and that credentials are set (for s3: AWS_ACCESS_KEY_ID and the like)"


@lru_cache(maxsize=32)
def _system_of(root: str) -> Any:
    from pyarrow import fs

    return fs.FileSystem.from_uri(root)[0]


def _system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it."""
    import pyarrow as pa
    from pyarrow import fs

    split = urlsplit(url)
    path = f"{split.netloc.rpartition('@')[2]}{split.path}".rstrip("/")
    try:
        if split.scheme in ("s3", "gs"):
            bucket = urlunsplit((split.scheme, split.netloc, "", split.query, ""))
            return _system_of(bucket), path
        import fsspec

        handler, inner = fsspec.core.url_to_fs(url)
        return fs.PyFileSystem(fs.FSSpecHandler(handler)), inner
    except (pa.ArrowInvalid, OSError, ValueError, ImportError) as error:
        raise InputError(f"cannot be reached: {_short(error)}", where=url, fix=CREDENTIALS) from None


def _short(error: BaseException) -> str:
    return masked(" ".join(str(error).split()))[:300]


def open_raw(path: str) -> BinaryIO:
    """Open a file as seekable bytes. Raises InputError where it is gone or may not be read."""
    try:
        if not is_remote(path):
            return Path(path).open("rb")
        system, inner = _system(path)
        return cast(BinaryIO, system.open_input_file(inner))
    except OSError as error:
        raise InputError(f"cannot be opened: {_short(error)}", where=path, fix=CREDENTIALS) from None


def chunks(file: BinaryIO, size: int = 4 << 20) -> Iterator[bytes]:
    while chunk := file.read(size):
        yield chunk
