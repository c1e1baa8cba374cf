"""What a folder still holds of some words: the bytes of its files, and the values in its parquet files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import polars as pl


def remains(folder: Path, words: Collection[str], without: Collection[str] = ()) -> dict[str, str]:
    """Return {file: the first of the words in it}. without: names of files and folders below `folder` to pass over."""
    found = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if set(file.relative_to(folder).parts) & set(without):
            continue
        content = file.read_bytes()
        if content[:4] == b"PAR1":
            content += str(pl.read_parquet(file, glob=False, hive_partitioning=False).to_dict(as_series=False)).encode()
        word = next((word for word in words if word.encode() in content), "")
        if word:
            found[str(file.relative_to(folder))] = word
    return found
