"""Pictures as rows for the loop: a folder of JPEGs in a folder of each class, or such a folder made up.

    python -m tasks.deep.pictures --out FOLDER [--count 400] [--seed 0]       FOLDER/ring/00007.jpg, ...
    python -m tasks.deep.launch --pictures FOLDER

A row is the middle of a picture, grey and shrunk: uint8 (1, side, side), a quarter of what float32 would take to the
device. Files that are no JPEG or are cut short are left out and told with their reason; rows + left out = files.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

from tasks.core.errors import InputError, RaymillError
from tasks.core.whole_files import write_whole
from tasks.deep.batches import Batch
from tasks.deep.grey import UNREADABLE, Pixels, in_threads, luma

SHAPES = ("cross", "disc", "ring", "square")
TAKEN = "a folder that holds a folder of JPEGs for each class: FOLDER/CLASS/NAME.jpg"


@dataclass(frozen=True)
class Pictures:
    """rows: as tasks/deep/batches.py says; tokens are pictures (n, 1, side, side) uint8, the target is the number of
    the class. left_out: files and the reasons."""

    rows: Batch
    classes: tuple[str, ...]
    left_out: tuple[tuple[Path, str], ...]


def from_folder(folder: Path, side: int, threads: int | None = None) -> Pictures:
    """Read all classes, in the order of their names and their files'. Hidden files are passed over.

    Raises InputError for a folder without two classes that can be read.
    """
    if not folder.is_dir():
        raise InputError("no such folder", where=str(folder), fix=f"give {TAKEN}")
    named = {place.name: _files(place) for place in sorted(folder.iterdir()) if place.is_dir() and _seen(place)}
    files = [(name, file) for name, found in named.items() for file in found]
    read = in_threads(lambda of: _read(of[1], side), files, threads or os.cpu_count() or 1)
    left_out = tuple((file, found) for (_, file), found in zip(files, read, strict=True) if isinstance(found, str))
    kept = [(name, found) for (name, _), found in zip(files, read, strict=True) if not isinstance(found, str)]
    classes = tuple(sorted({name for name, _ in kept}))
    if len(classes) < 2:
        first = f"; {left_out[0][0]}: {left_out[0][1]}" if left_out else ""
        raise InputError(
            f"{len(kept)} pictures of {len(classes)} classes can be read{first}", where=str(folder), fix=f"give {TAKEN}"
        )
    return Pictures(as_rows([picture for _, picture in kept], [classes.index(n) for n, _ in kept]), classes, left_out)


def as_rows(pictures: Sequence[Pixels], labels: Sequence[int]) -> Batch:
    """A row counts as one token: what the loop calls tokens a second are pictures a second."""
    n = len(pictures)
    return {
        "tokens": torch.from_numpy(np.stack(pictures)[:, None]),
        "mask": torch.ones(n, 1, dtype=torch.bool),
        "target": torch.tensor(labels, dtype=torch.float32)[:, None],
        "weight": torch.ones(n, 1),
    }


def fitted(data: bytes, side: int) -> Pixels:
    """Return the middle of a JPEG, grey and shrunk to (side, side) by means of areas. Raises one of UNREADABLE."""
    return np.asarray(ImageOps.fit(luma(data), (side, side), Image.Resampling.BOX))


def drawn(shape: str, side: int, rng: np.random.Generator) -> bytes:
    """Return a JPEG of a shape, anywhere, in any colours, on a background with noise."""
    ground, colour = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
    while abs(int(ground.sum()) - int(colour.sum())) < 150:  # it can be seen when grey
        colour = rng.integers(0, 256, 3)
    noisy = ground + rng.normal(0, 12, (side, side, 3))
    picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    size = int(rng.integers(side // 3, side // 2))
    left, top = (int(v) for v in rng.integers(2, side - size - 2, 2))
    box, pen = (left, top, left + size, top + size), tuple(int(v) for v in colour)
    draw, thick = ImageDraw.Draw(picture), max(2, size // 4)
    if shape == "cross":
        middle = (size - thick) // 2
        draw.rectangle((left, top + middle, left + size, top + middle + thick), pen)
        draw.rectangle((left + middle, top, left + middle + thick, top + size), pen)
    elif shape == "disc":
        draw.ellipse(box, pen)
    elif shape == "ring":
        draw.ellipse(box, outline=pen, width=thick)
    else:
        draw.rectangle(box, pen)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def made(count: int, side: int, seed: int) -> list[tuple[str, bytes]]:
    """Return so many drawn JPEGs with their shapes, in turn; the first ones are the same for any count."""
    return [(shape, drawn(shape, side, np.random.default_rng([seed, i]))) for i, shape in _in_turn(count)]


def _in_turn(count: int) -> list[tuple[int, str]]:
    return [(i, SHAPES[i % len(SHAPES)]) for i in range(count)]


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and _seen(file))


def _seen(path: Path) -> bool:
    return not path.name.startswith(".")


def _read(file: Path, side: int) -> Pixels | str:
    try:
        return fitted(file.read_bytes(), side)
    except UNREADABLE as error:
        return str(error).partition(" <")[0]  # the rest is an object's address in memory


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tasks.deep.pictures", description="Draw JPEGs of four shapes.")
    parser.add_argument("--out", type=Path, required=True, help="a folder; it gets a folder of each shape")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--side", type=int, default=96, help="pixels each way")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        if given.count < len(SHAPES) or given.side < 16 or given.seed < 0:
            raise InputError(
                f"{given.count} pictures of {given.side} pixels, seed {given.seed}",
                where="--count, --side, --seed",
                fix=f"at least {len(SHAPES)} pictures, 16 pixels, seed 0",
            )
        for index, (shape, data) in enumerate(made(given.count, given.side, given.seed)):
            file = given.out / shape / f"{index:05d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, data)
    except RaymillError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
    except OSError as error:
        print(InputError(f"cannot be written ({error})", where=str(given.out), fix="another folder"), file=sys.stderr)
        sys.exit(InputError.exit_status)
    print(f"{given.count} pictures in {given.out}")


if __name__ == "__main__":
    main()
