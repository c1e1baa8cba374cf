"""Inputs that are made up once and kept for the next bench."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tasks.core.sections import PROJECT

INPUTS = PROJECT / "bench-results" / "inputs"
SEED = 7


def kept(name: str, make: Callable[[Path], object]) -> Path:
    """Return the file or folder of this name among the inputs; `make` writes it if it is not there yet."""
    path = INPUTS / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{name}.{os.getpid()}.unfinished")
        make(unfinished)
        unfinished.rename(path)  # what has its name is always complete
    return path


def synthetic(rows: int) -> Path:
    """Make a folder of so many synthetic reviews."""
    from tasks.sources.synth import synthesize

    return kept(f"synth-{rows}-{SEED}", lambda folder: synthesize(rows, SEED, folder))
