"""Pictures as rows for the loop: a folder of JPEGs in a folder of each class, or such a folder made up.

    python -m tasks.deep.pictures --out FOLDER [--count 400] [--seed 0]       FOLDER/ring/00007.jpg, ...
    python -m tasks.deep.launch --pictures FOLDER

A row is the middle of a picture, grey and shrunk: uint8 (1, side, side), a quarter of what float32 would take to the
device. What is no JPEG, is cut short or lies elsewhere is left out with its reason: rows + left out = what is there,
hidden files aside.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tasks.deep import installed

if __name__ == "__main__":
    installed.check()

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from tasks.core.errors import InputError, RaymillError
from tasks.core.whole_files import write_whole
from tasks.deep.batches import Batch
from tasks.deep.grey import UNREADABLE, Pixels, in_threads, luma

SHAPES = ("cross", "disc", "ring", "square")
LUMA = np.array([0.299, 0.587, 0.114])
TAKEN = "a folder that holds a folder of JPEGs for each class: FOLDER/CLASS/NAME.jpg"


@dataclass(frozen=True)
class Pictures:
    """rows: as tasks/deep/batches.py says; tokens are pictures (n, 1, side, side) uint8, the target is the number of
    the class. files: of the rows, in their order. left_out: paths and the reasons."""

    rows: Batch
    files: tuple[Path, ...]
    classes: tuple[str, ...]
    left_out: tuple[tuple[Path, str], ...]


def from_folder(folder: Path, side: int, threads: int | None = None) -> Pictures:
    """Read all classes, in the order of their names and their files'. Hidden files and empty folders are passed over.

    threads: torch's number if not given. Raises InputError for a file that the system does not let be read, a class
    of which no file is a JPEG, and a folder without two classes.
    """
    listed, left_out = _listed(folder)
    read = in_threads(lambda of: _read(of[1], side), listed, threads or torch.get_num_threads())
    left_out += [(file, found) for (_, file), found in zip(listed, read, strict=True) if isinstance(found, str)]
    kept = [(of, found) for of, found in zip(listed, read, strict=True) if not isinstance(found, str)]
    names = {name for (name, _), _ in kept}
    if lost := sorted({name for name, _ in listed} - names):
        file, reason = next((file, reason) for file, reason in left_out if file.parent.name == lost[0])
        what = f"no file of the class {lost[0]} can be read; {file.name}: {reason}"
        raise InputError(what, where=str(folder), fix=f"give {TAKEN}")
    if len(names) < 2:
        raise InputError(f"{len(kept)} pictures of {len(names)} classes", where=str(folder), fix=f"give {TAKEN}")
    numbers = {name: number for number, name in enumerate(sorted(names))}
    rows = as_rows([picture for _, picture in kept], [numbers[name] for (name, _), _ in kept])
    return Pictures(rows, tuple(file for (_, file), _ in kept), tuple(numbers), tuple(sorted(left_out)))


def as_rows(pictures: Sequence[Pixels], labels: Sequence[int]) -> Batch:
    """A row counts as one token: what the loop calls tokens a second are pictures a second."""
    n = len(pictures)
    return {
        "tokens": torch.from_numpy(np.stack(pictures)[:, None]),
        "mask": torch.ones(n, 1, dtype=torch.bool),
        "target": torch.tensor(labels, dtype=torch.float32)[:, None],
        "weight": torch.ones(n, 1),
    }


def fitted(file: Path | BinaryIO, side: int) -> Pixels:
    """Return the middle of a JPEG, grey and shrunk to (side, side) by means of areas. Raises one of UNREADABLE."""
    return np.asarray(ImageOps.fit(luma(file), (side, side), Image.Resampling.BOX))


def drawn(shape: str, side: int, rng: np.random.Generator) -> bytes:
    """Return a JPEG of a shape, anywhere, in any colours, on a background with noise."""
    ground, colour = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
    while abs(float((ground - colour) @ LUMA)) < 40:  # of 255: it can be seen when grey
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


def made(count: int, side: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield so many drawn JPEGs with their shapes, in turn; the first ones are the same for any count."""
    for i in range(count):
        shape = SHAPES[i % len(SHAPES)]
        yield shape, drawn(shape, side, np.random.default_rng([seed, i]))


def rows_made(count: int, side: int, seed: int) -> Batch:
    """Return rows of drawn pictures of 96 x 96 pixels, shrunk to side; classes are numbered as SHAPES."""
    drawings = list(made(count, 96, seed))
    labels = [SHAPES.index(shape) for shape, _ in drawings]
    return as_rows([fitted(io.BytesIO(data), side) for _, data in drawings], labels)


def _listed(folder: Path) -> tuple[list[tuple[str, Path]], list[tuple[Path, str]]]:
    """Return the files of each class with its name, and what is there besides with the reason to leave it out."""
    listed: list[tuple[str, Path]] = []
    left_out: list[tuple[Path, str]] = []
    try:
        if not folder.is_dir():
            raise InputError("no such folder", where=str(folder), fix=f"give {TAKEN}")
        for place in sorted(filter(_seen, folder.iterdir())):
            if not place.is_dir():
                left_out.append((place, "in no class's folder"))
                continue
            for file in sorted(filter(_seen, place.iterdir())):
                if file.is_file():
                    listed.append((place.name, file))
                else:
                    left_out.append((file, "a folder in a class's" if file.is_dir() else "no file, or a broken link"))
    except OSError as error:
        raise InputError(f"cannot be listed ({error})", where=str(folder), fix="a folder that may be read") from error
    return listed, left_out


def _seen(path: Path) -> bool:
    return not path.name.startswith(".")


def _read(file: Path, side: int) -> Pixels | str:
    try:
        return fitted(file, side)
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno is not None:  # another rank may have read it
            raise InputError(f"cannot be read ({error})", where=str(file), fix="see the file") from error
        return "no JPEG" if isinstance(error, UnidentifiedImageError) else str(error)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tasks.deep.pictures", description="Draw JPEGs of four shapes.")
    parser.add_argument("--out", type=Path, required=True, help="a folder; it gets a folder of each shape")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--side", type=int, default=96, help="pixels each way")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        if given.count < len(SHAPES) or not 16 <= given.side <= 4096 or given.seed < 0:
            raise InputError(
                f"{given.count} pictures of {given.side} pixels, seed {given.seed}",
                where="--count, --side, --seed",
                fix=f"at least {len(SHAPES)} pictures, 16 to 4096 pixels, seed 0 or more",
            )
        if given.out.exists() and next(given.out.iterdir(), None):
            raise InputError("it is not empty", where=str(given.out), fix="a new folder, so that none are mixed")
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
