"""Find folders of Delta, Iceberg and Hudi tables: only their logs know which of their files are alive."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

FIX = "write the table's rows as plain parquet in another folder, and give that folder"
FOLDERS = {"_delta_log": "a Delta table", ".hoodie": "a Hudi table"}
ICEBERG = "an Iceberg table"
ICEBERG_DEPTH = 4  # parents of a path in a store that may be an Iceberg table: each costs a request
_ICEBERG = re.compile(r"(?:(.*)/)?metadata/[^/]+\.metadata\.json(?:\.gz)?")


def reason(table: str) -> str:
    return (
        f"part of {table}, whose log alone tells which of its files hold rows that still exist: "
        "write its rows as plain parquet"
    )


def roots(names: Iterable[str]) -> dict[str, str]:
    """Return the outermost tables among these paths: {folder: kind}; "" is the folder that the paths start from."""
    found: dict[str, str] = {}
    for name in names:
        parts = PurePosixPath(name).parts
        for sign, kind in FOLDERS.items():
            if sign in parts:
                found["/".join(parts[: parts.index(sign)])] = kind
        if match := _ICEBERG.fullmatch(name):
            found[match[1] or ""] = ICEBERG
    return {root: kind for root, kind in found.items() if not any(_below(root, other) for other in found)}


def _below(name: str, root: str) -> bool:
    return name != root and (not root or name.startswith(f"{root}/"))


def root_of(name: str, tables: dict[str, str]) -> str | None:
    """Return the table that a path lies in, or None."""
    return next((root for root in tables if _below(name, root)), None)


def above(folder: Path) -> str | None:
    """Return the kind of the table that a folder is or lies in, or None."""
    return next((kind for at in (folder, *folder.parents) if (kind := _kind(at))), None)


def _kind(folder: Path) -> str | None:
    for sign, kind in FOLDERS.items():
        if (folder / sign).is_dir():
            return kind
    try:
        return ICEBERG if any((folder / "metadata").glob("*.metadata.json*")) else None
    except OSError:
        return None


def above_in_store(system: Any, folder: str) -> str | None:
    """Return the kind of the table that a path in a store lies in; None, too, where its parents may not be listed."""
    from pyarrow import fs

    parents = [f"{p}/" for p in map(str, PurePosixPath(folder).parents) if p not in (".", "/")]
    signs = {f"{p}{sign}": kind for p in parents for sign, kind in FOLDERS.items()}
    metadata = [fs.FileSelector(f"{p}metadata", allow_not_found=True) for p in parents[:ICEBERG_DEPTH]]
    try:
        found = [i for i in system.get_file_info(list(signs)) if i.type == fs.FileType.Directory]
        if found:
            return signs[found[0].path]
        listed = [info.path for where in metadata for info in system.get_file_info(where)]
    except OSError:
        return None
    return ICEBERG if any(_ICEBERG.fullmatch(path) for path in listed) else None
