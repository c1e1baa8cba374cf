"""From JPEG to grey, in four ways that are measured against each other (`raymill bench images`).

    luma(data)                          libjpeg decodes the brightness alone: what the loader of pictures does
    pixels(data) -> grey_by_pillow      decodes red, green and blue; Pillow converts
    pixels(data) -> grey_by_torch       torch converts, on a CPU or a GPU
    pixels(data) -> grey_by_kernel      one Triton kernel converts and shrinks (tasks/deep/grey_kernel.py)

Grey is the luma of ITU-R BT.601 in Pillow's fixed point: (19595 R + 38470 G + 7471 B + 2^15) / 2^16, rounded down. The
last three then take means of factor x factor pixels, rounded half up, and are equal bit for bit. The first differs by
rounding: a JPEG holds brightness and two colours, and grey of red, green and blue is brightness there and back again.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import avg_pool2d

from tasks.core.errors import InputError

RED, GREEN, BLUE, HALF, SHIFT = 19595, 38470, 7471, 1 << 15, 16
FACTORS = (1, 2, 4, 8)
# What Pillow raises for what is no JPEG, is cut short, or has more pixels than it will unpack.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def luma(data: bytes) -> Image.Image:
    """Decode a JPEG's brightness, without its colours; upright as its EXIF says. Raises one of UNREADABLE."""
    picture = Image.open(io.BytesIO(data), formats=["JPEG"])
    picture.draft("L", picture.size)
    picture.load()
    grey = picture if picture.mode == "L" else picture.convert("L")  # CMYK is always decoded whole
    return ImageOps.exif_transpose(grey)


def pixels(data: bytes) -> Pixels:
    """Decode a JPEG to (height, width, 3). Raises one of UNREADABLE."""
    return np.asarray(Image.open(io.BytesIO(data), formats=["JPEG"]).convert("RGB"))


def in_threads(work: Callable[[Any], Any], items: Iterable[Any], threads: int) -> list[Any]:
    """Return work of each item, in order. libjpeg and Pillow let other threads run meanwhile."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


def grey_by_pillow(picture: Pixels, factor: int) -> Pixels:
    """(height, width, 3) to (height / factor, width / factor)."""
    _check(picture.shape, factor)
    return np.asarray(Image.fromarray(picture).convert("L").reduce(factor))


def grey_by_torch(pictures: Tensor, factor: int) -> Tensor:
    """(n, height, width, 3) uint8 to (n, height / factor, width / factor) uint8, on the tensor's device."""
    _check(pictures.shape[1:], factor)
    red, green, blue = pictures.unbind(-1)
    # Float32, which torch computes several times as fast as integers, is exact: nothing here reaches 2^24.
    grey = red.float().mul_(RED).add_(green, alpha=GREEN).add_(blue, alpha=BLUE).add_(HALF)
    means = avg_pool2d(grey.mul_(0.5**SHIFT).floor_(), factor)
    return means.add_(0.5).floor_().to(torch.uint8)


def grey_by_kernel(pictures: Tensor, factor: int) -> Tensor:
    """As grey_by_torch: each pixel is read once and nothing in between is written. Needs the extra `gpu` and a GPU, or
    TRITON_INTERPRET=1, with which it runs on the CPU, to be tested."""
    _check(pictures.shape[1:], factor)
    from tasks.deep import grey_kernel

    return grey_kernel.grey(pictures.contiguous(), factor)


def shift_of(factor: int) -> int:
    """Return s where factor^2 = 2^s."""
    return 2 * (factor.bit_length() - 1)


def _check(shape: Sequence[int], factor: int) -> None:
    height, width, channels = shape
    if factor not in FACTORS or height % factor or width % factor or channels != 3:
        raise InputError(
            f"{height} x {width} pixels of {channels} numbers cannot be shrunk by {factor}",
            where="grey",
            fix=f"red, green and blue, a factor of {FACTORS}, and sides that are its multiples",
        )
