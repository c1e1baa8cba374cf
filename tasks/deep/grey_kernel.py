"""JPEG's pixels to grey and smaller, in one pass over memory: a Triton kernel.

A program makes BLOCK grey pixels, and for each reads FACTOR x FACTOR x 3 bytes. What bounds it is memory: 3 bytes read
and 1 / FACTOR^2 written for each pixel, where operators one after the other would write and read 4-byte numbers
several times. Imported where it is used alone: triton decides when imported whether it interprets.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tasks.deep.grey import BLUE, GREEN, HALF, RED, SHIFT, check, shift_of

BLOCK = 512


@triton.jit  # type: ignore[untyped-decorator]
def _grey(
    pictures,  # uint8 (n, height * FACTOR, width * FACTOR, 3), one after the other
    out,  # uint8 (n, height, width)
    count,  # n * height * width
    width,
    FACTOR: tl.constexpr,
    RED: tl.constexpr,
    GREEN: tl.constexpr,
    BLUE: tl.constexpr,
    HALF: tl.constexpr,
    SHIFT: tl.constexpr,
    MEAN_SHIFT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = place < count
    # Pictures lie below each other, so a row of the output is a row of the batch.
    row, column = place // width, place % width
    added = tl.zeros((BLOCK,), tl.int32)
    for dy in tl.static_range(FACTOR):
        for dx in tl.static_range(FACTOR):
            pixel = pictures + ((row * FACTOR + dy) * width * FACTOR + column * FACTOR + dx) * 3
            red = tl.load(pixel, mask=there, other=0).to(tl.int32)
            green = tl.load(pixel + 1, mask=there, other=0).to(tl.int32)
            blue = tl.load(pixel + 2, mask=there, other=0).to(tl.int32)
            added += (red * RED + green * GREEN + blue * BLUE + HALF) >> SHIFT
    mean = (added + FACTOR * FACTOR // 2) >> MEAN_SHIFT
    tl.store(out + place, mean.to(tl.uint8), mask=there)


def grey_by_kernel(pictures: Tensor, factor: int) -> Tensor:
    """(n, height, width, 3) uint8 to (n, height / factor, width / factor) uint8, as grey_by_torch. On a GPU, or with
    TRITON_INTERPRET=1 on a CPU, to be tested. Needs the extra `gpu`."""
    check(pictures.shape[1:], factor)
    pictures = pictures.contiguous()
    n, height, width, _ = pictures.shape
    out = torch.empty((n, height // factor, width // factor), dtype=torch.uint8, device=pictures.device)
    if out.numel():
        _grey[(triton.cdiv(out.numel(), BLOCK),)](
            pictures, out, out.numel(), width // factor, factor, RED, GREEN, BLUE, HALF, SHIFT, shift_of(factor), BLOCK
        )
    return out
