"""What `raymill serve` served last, noted beside the copies of models, for a start while the registry is down.

MODELS/NAME@WANTED    the version that an alias or a number meant
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tasks.core.whole_files import write_whole


def note(models: Path, name: str, wanted: str, version: str) -> None:
    write_whole(models / f"{name}@{wanted}", version)


def noted(models: Path, name: str, wanted: str) -> str:
    """Return the version that `wanted` meant last; itself if nothing is noted."""
    file = models / f"{name}@{wanted}"
    return file.read_text() if file.exists() else wanted


def served_last(models: Path) -> Iterator[tuple[str, str]]:
    """Yield name and version of all that is noted."""
    for file in models.glob("*@*"):
        if file.is_file() and file.suffix != ".draft":
            yield file.name.partition("@")[0], file.read_text()
