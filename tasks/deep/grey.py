"""From JPEG to grey, in four ways that are measured against each other (`raymill bench images`).

    luma(file)                          libjpeg decodes the brightness alone: what the loader of pictures does
    pixels(file) -> grey_by_pillow      decodes red, green and blue; Pillow converts
    pixels(file) -> grey_by_torch       torch converts, on a CPU or a GPU
    pixels(file) -> grey_by_kernel      one Triton kernel converts and shrinks (tasks/deep/grey_kernel.py)

Grey is the luma of ITU-R BT.601 in Pillow's fixed point: (19595 R + 38470 G + 7471 B + 2^15) / 2^16, rounded down. The
last three then take means of factor x factor pixels, rounded half up, and are equal bit for bit. The first differs by
rounding: a JPEG holds brightness and two colours, and grey of red, green and blue is brightness there and back again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from tasks.core.errors import InputError

RED, GREEN, BLUE, HALF, SHIFT = 19595, 38470, 7471, 1 << 15, 16
FACTORS = (1, 2, 4, 8)
# What Pillow raises for what is no JPEG, is cut short, or has more pixels than it will unpack. An OSError with a number
# is of the file, not of what is in it.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
BROKEN_EXIF = (*UNREADABLE, struct.error, TypeError, KeyError)
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def luma(file: Path | BinaryIO) -> Image.Image:
    """Decode a JPEG's brightness, without its colours; upright as its EXIF says. Raises one of UNREADABLE."""
    with Image.open(file, formats=["JPEG"]) as picture:
        picture.draft("L", picture.size)
        grey = picture.convert("L")  # CMYK is always decoded whole
        turn = TURNS.get(_orientation(picture))
    return grey if turn is None else grey.transpose(turn)


def _orientation(picture: Image.Image) -> Any:
    """Return what EXIF says, if it can be read: cameras and editors write all kinds of it."""
    try:
        return picture.getexif().get(ORIENTATION)
    except BROKEN_EXIF:
        return None


def pixels(file: Path | BinaryIO) -> Pixels:
    """Decode a JPEG to (height, width, 3), as it is stored: not turned. Raises one of UNREADABLE."""
    with Image.open(file, formats=["JPEG"]) as picture:
        return np.asarray(picture.convert("RGB"))


def in_threads(work: Callable[[Any], Any], items: Iterable[Any], threads: int) -> list[Any]:
    """Return work of each item, in order. libjpeg and Pillow let other threads run meanwhile."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


def grey_by_pillow(picture: Pixels, factor: int) -> Pixels:
    """(height, width, 3) to (height / factor, width / factor)."""
    check(picture.shape, factor)
    return np.asarray(Image.fromarray(picture).convert("L").reduce(factor))


def grey_by_torch(pictures: Tensor, factor: int) -> Tensor:
    """(n, height, width, 3) uint8 to (n, height / factor, width / factor) uint8, on the tensor's device."""
    check(pictures.shape[1:], factor)
    red, green, blue = pictures.unbind(-1)
    # Float32, which torch computes several times as fast as integers, is exact: nothing here reaches 2^24.
    grey = red.float().mul_(RED).add_(green, alpha=GREEN).add_(blue, alpha=BLUE).add_(HALF)
    means = avg_pool2d(grey.mul_(0.5**SHIFT).floor_(), factor)
    return means.add_(0.5).floor_().to(torch.uint8)


def shift_of(factor: int) -> int:
    """Return s where factor^2 = 2^s."""
    return 2 * (factor.bit_length() - 1)


def check(shape: Sequence[int], factor: int) -> None:
    """Raise InputError for a picture (height, width, channels) that cannot be shrunk so."""
    height, width, channels = shape
    if factor not in FACTORS or height % factor or width % factor or channels != 3:
        raise InputError(
            f"{height} x {width} pixels of {channels} numbers cannot be shrunk by {factor}",
            where="grey",
            fix=f"red, green and blue, a factor of {FACTORS}, and sides that are its multiples",
        )
