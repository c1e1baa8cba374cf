"""The folder that a rehearsal works in: its own snapshots, and its result. Runs and their registry stay untouched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.forget.places import REHEARSAL, REHEARSALS
from tasks.core.errors import InputError, RunError
from tasks.core.locks import locked
from tasks.core.whole_files import write_whole
from tasks.settings import Settings

MARK = "rehearsal.json"  # in such a folder: its result, or {} before there is one
LOCK = ".lock"


def check_place(settings: Settings, out: Path | None) -> Path:
    """Return the folder to work in. Raises InputError for one that is not the rehearsal's own."""
    root = settings.storage.path
    place = (out or root / REHEARSAL).absolute()
    if "://" in str(out):
        raise InputError(f"{out} is no folder of this machine", where="--out", fix="give a local folder")
    if place.exists() and not place.is_dir():
        raise InputError(f"{place} is a file", where="--out", fix="give a folder")
    runs = (root / "snapshots", root / "score", root / "runs")
    if root.resolve().is_relative_to(place.resolve()) or any(place.resolve().is_relative_to(p.resolve()) for p in runs):
        raise InputError(f"{place} holds what runs write", where="--out", fix="give a folder of its own")
    given = settings.data.input
    for path in [given] if isinstance(given, str) else given:
        if "://" not in path and place.resolve().is_relative_to(Path(path).resolve()):
            raise InputError(f"{place} is within the input {path}", where="--out", fix="give a folder elsewhere")
    if place.exists() and any(p.name != LOCK for p in place.iterdir()) and not (place / MARK).exists():
        raise InputError(f"{place} exists and holds no rehearsal", where="--out", fix="give a new or empty folder")
    return place


@contextmanager
def opened(settings: Settings, place: Path) -> Iterator[Settings]:
    """Hold the folder while the block runs; yields the settings that keep the rehearsal in it.

    Raises RunError if another rehearsal is at work there.
    """
    place.mkdir(parents=True, exist_ok=True)
    with locked(place / LOCK, wait=False) as alone:
        if not alone:
            raise RunError(f"another rehearsal is at work in {place}", fix="wait for its end, or give another --out")
        if not (place / MARK).exists():
            write_whole(place / MARK, "{}", synced=True)
        _remember(settings, place)
        storage = settings.storage.model_copy(update={"root": str(place), "remote": None})
        yield settings.model_copy(update={"storage": storage})


def _remember(settings: Settings, place: Path) -> None:
    """Write down where rehearsals are: `raymill forget` has to find them."""
    root = settings.storage.path
    file = root / REHEARSALS
    known = json.loads(file.read_text()) if file.exists() else []
    if place != root / REHEARSAL and str(place) not in known:
        root.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps([*known, str(place)], indent=1), synced=True)
