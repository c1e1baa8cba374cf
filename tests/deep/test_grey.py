"""JPEG to grey: Pillow, torch and the kernel agree bit for bit; brightness alone is as good as they are."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra deep: torch")

from PIL import Image, ImageOps  # noqa: E402

from tasks.core.errors import InputError  # noqa: E402
from tasks.core.sections import PROJECT  # noqa: E402
from tasks.deep.grey import FACTORS, UNREADABLE, grey_by_pillow, grey_by_torch, luma, pixels  # noqa: E402
from tests.support.jpegs import jpeg  # noqa: E402

needs_triton = pytest.mark.skipif(not find_spec("triton"), reason="needs the extra gpu: triton")


def test_every_colour_has_the_grey_that_pillow_gives_it() -> None:
    colours = np.stack(np.meshgrid(*[np.arange(256, dtype=np.uint8)] * 3, indexing="ij"), axis=-1)
    picture = colours.reshape(4096, 4096, 3)
    assert np.array_equal(grey_by_torch(torch.from_numpy(picture[None]), 1)[0].numpy(), grey_by_pillow(picture, 1))


@pytest.mark.parametrize("factor", FACTORS)
def test_torch_and_pillow_shrink_alike(factor: int) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 48, 40, 3), dtype=np.uint8)
    expected = np.stack([grey_by_pillow(picture, factor) for picture in pictures])
    assert expected.shape == (5, 48 // factor, 40 // factor)
    assert np.array_equal(grey_by_torch(torch.from_numpy(pictures), factor).numpy(), expected)


@needs_triton
def test_the_kernel_gives_what_torch_gives() -> None:
    """In Triton's interpreter, in a process of its own: triton decides when imported whether it interprets."""
    in_own_process("""
import torch
from tasks.deep.grey import FACTORS, grey_by_torch
from tasks.deep.grey_kernel import grey_by_kernel
random = torch.Generator().manual_seed(0)
for shape in ((1, 8, 8), (3, 40, 56), (2, 24, 8)):  # 1 to 13 blocks, the last one in part
    pictures = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=random)
    for factor in FACTORS:
        assert torch.equal(grey_by_kernel(pictures, factor), grey_by_torch(pictures, factor)), (shape, factor)
import numpy as np
from tasks.deep import grey_kernel
grey_kernel.BLOCK = 2**18  # few steps for the interpreter
colours = np.stack(np.meshgrid(*[np.arange(256, dtype=np.uint8)] * 3, indexing="ij"), axis=-1)
colours = torch.from_numpy(colours.reshape(1, 4096, 4096, 3))
assert torch.equal(grey_by_kernel(colours, 1), grey_by_torch(colours, 1))
across = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=random).permute(0, 2, 3, 1)
assert torch.equal(grey_by_kernel(across, 2), grey_by_torch(across, 2))  # not one after the other in memory
assert grey_by_kernel(across[:0], 2).shape == (0, 8, 8)
""")


@needs_triton
def test_the_kernel_compiles_for_gpus_without_one() -> None:
    """Down to machine code of an A100 and an H100, by the assembler that triton brings."""
    done = in_own_process(
        """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tasks.deep import grey_kernel as of
from tasks.deep.grey import shift_of
names = of._grey.arg_names
for capability in (80, 90):
    for factor in (1, 4):
        values = (factor, of.RED, of.GREEN, of.BLUE, of.HALF, of.SHIFT, shift_of(factor), of.BLOCK)
        kinds = {"pictures": "*u8", "out": "*u8", "count": "i64", "width": "i32"}
        kinds |= dict.fromkeys(names[4:], "constexpr")
        source = ASTSource(of._grey, kinds, dict(zip(names[4:], values, strict=True)))
        print(len(triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]))
""",
        TRITON_INTERPRET="0",
    )
    assert [int(line) > 0 for line in done.split()] == [True] * 4


def in_own_process(program: str, **environment: str) -> str:
    variables = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(PROJECT), **environment}
    done = subprocess.run(
        [sys.executable, "-c", program], env=variables, cwd=PROJECT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_brightness_alone_is_grey_of_all_colours_but_for_rounding(mode: str) -> None:
    data = jpeg((64, 48), mode=mode)
    found = np.asarray(luma(io.BytesIO(data)))
    whole = np.asarray(Image.fromarray(pixels(io.BytesIO(data))).convert("L"))
    assert found.shape == whole.shape == (48, 64)
    apart = np.abs(found.astype(int) - whole)
    assert apart.mean() < 0.5
    assert apart.max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_upright_as_its_exif_says(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg((64, 48), exif=exif)
    with Image.open(io.BytesIO(data)) as picture:
        picture.draft("L", picture.size)
        expected = ImageOps.exif_transpose(picture)
    assert np.array_equal(np.asarray(luma(io.BytesIO(data))), np.asarray(expected))


@pytest.mark.parametrize(
    ("entries", "size"),
    [
        (b"\x00\x01\x02\x00\x04\x00\x00\x00wide" + b"\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00", (48, 64)),
        (b"\x12\x01\x02\x00\x04\x00\x00\x00left" * 2, (64, 48)),
        (b"\x12\x01\x03\x00\x01\x00\x00\x00\x09\x00\x00\x00" * 2, (64, 48)),
        (b"\xff" * 24, (64, 48)),
    ],
    ids=["a width that is a word", "an orientation that is a word", "an unknown orientation", "no EXIF at all"],
)
def test_exif_that_makes_no_sense_does_not_matter(entries: bytes, size: tuple[int, int]) -> None:
    """Two entries of 12 bytes, little-endian: the tag, its type (2 text, 3 short), how many, the value."""
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x02\x00" + entries + b"\x00" * 4
    assert luma(io.BytesIO(jpeg((64, 48), exif=exif))).size == size


def test_what_is_no_jpeg_or_cut_short_is_refused() -> None:
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    for data in (b"", b"nothing", png.getvalue(), jpeg((64, 48))[:400]):
        for decode in (luma, pixels):
            with pytest.raises(UNREADABLE):
                decode(io.BytesIO(data))


@pytest.mark.parametrize(("shape", "factor"), [((9, 8, 3), 2), ((8, 9, 3), 2), ((8, 8, 4), 2), ((9, 9, 3), 3)])
def test_what_cannot_be_shrunk_is_told(shape: tuple[int, ...], factor: int) -> None:
    picture = np.zeros(shape, dtype=np.uint8)
    for convert in (
        lambda: grey_by_pillow(picture, factor),
        lambda: grey_by_torch(torch.tensor(picture)[None], factor),
    ):
        with pytest.raises(InputError, match="cannot be shrunk by"):
            convert()
