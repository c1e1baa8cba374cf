"""List and open raw files: a file, a folder or a glob, on this machine or in a bucket (s3://, gs://, others by fsspec).

Names are relative to the input, with forward slashes. They decide the order of rows; absolute paths do not.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit, urlunsplit

from tasks.core.errors import InputError
from tasks.core.secrets import masked

PACKED = (".gz", ".bz2", ".zst", ".zip")
ENDINGS = (".parquet", ".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson")
WILD = "*?["


@dataclass(frozen=True)
class RawFile:
    """A listed file. `problem` is the reason if it must not be read."""

    path: str  # absolute, or a URL
    name: str
    size: int
    problem: str | None = None


def ending(name: str) -> str:
    """Return the ending that names the format: for a packed file, the one before .gz and the like."""
    path = PurePosixPath(name.lower())
    while path.suffix in PACKED:
        if path.suffix == ".zip" and PurePosixPath(path.stem).suffix not in (*ENDINGS, *PACKED):
            return ".zip"
        path = path.with_suffix("")
    return path.suffix


def is_remote(path: str) -> bool:
    return "://" in path


def find(inputs: Sequence[str]) -> list[RawFile]:
    """List the files of these inputs, by input, then by name. Raises InputError where an input has none.

    A file that is named or matches a glob is listed whatever its ending; in a folder, only readable endings are.
    """
    listed: list[list[RawFile]] = [_remote(i) if is_remote(i) else _local(i) for i in inputs]
    if len(listed) == 1:
        return listed[0]
    several = [
        RawFile(file.path, f"{_label(given, files)}/{file.name}", file.size, file.problem)
        for given, files in zip(inputs, listed, strict=True)
        for file in files
    ]
    once = {file.path: file for file in several}  # named twice, read once
    names = Counter(file.name for file in once.values())
    return [
        file if names[file.name] == 1 else RawFile(file.path, f"{n:03d}/{file.name}", file.size, file.problem)
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
        return [RawFile(str(root.resolve()), root.name, root.stat().st_size)]
    if root.is_dir():
        taken = [p for p in _walk(root) if ending(p.name) in (*ENDINGS, ".zip")]
        if not taken:
            others = sorted({p.suffix or p.name for p in _walk(root)})
            what = f"no review files in this folder, only {', '.join(others[:5])}" if others else "this folder is empty"
            raise InputError(what, where=given, fix=f"readable endings: {', '.join(ENDINGS)}, each also packed")
        return [_checked(p, root) for p in taken]
    if any(c in given for c in WILD):
        parts = root.parts
        wild = next(i for i, part in enumerate(parts) if any(c in part for c in WILD))
        base = Path(*parts[:wild]) if wild else Path()
        taken = sorted(p for p in base.glob(str(Path(*parts[wild:]))) if p.is_file())
        if taken:
            return [_checked(p, base) for p in taken]
        raise InputError("no file matches", where=given, fix="quote the pattern in the shell, and check the folder")
    raise InputError("no such file or folder", where=given, fix="check --input (relative paths start where you are)")


def _walk(root: Path) -> list[Path]:
    """List the files below a folder by name, without hidden ones, and without following links to folders."""
    paths = []
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if f[0] not in "._"]
        paths += [Path(folder, f) for f in files if f[0] not in "._"]
    return sorted(paths)


def _checked(path: Path, root: Path) -> RawFile:
    name = path.relative_to(root).as_posix()
    if not path.is_file():
        return RawFile(str(path.absolute()), name, 0, "a broken link, or not a regular file")
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
            return [RawFile(url(path), PurePosixPath(path).name, info.size)]
        listing = system.get_file_info(fs.FileSelector(base, recursive=True, allow_not_found=True))
    except OSError as error:
        raise InputError(f"cannot be listed: {_short(error)}", where=given, fix=CREDENTIALS) from None
    files = sorted((i for i in listing if i.type == fs.FileType.File), key=lambda i: i.path)
    names = {i.path: PurePosixPath(i.path).relative_to(base).as_posix() for i in files}
    if wild:
        files = [i for i in files if fnmatch(i.path, path)]
    else:
        files = [i for i in files if ending(i.path) in (*ENDINGS, ".zip") and _shown(names[i.path])]
    if not files:
        raise InputError("no review files at this address", where=given, fix="check the bucket's name and the folder")
    return [RawFile(url(i.path), names[i.path], i.size) for i in files]


CREDENTIALS = "check the address, and that credentials are set (for s3: AWS_ACCESS_KEY_ID and the like)"


def _shown(name: str) -> bool:
    return all(part[0] not in "._" for part in PurePosixPath(name).parts)


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
