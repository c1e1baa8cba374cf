"""From JPEG to small grey pictures: the loader's way against Pillow, torch and a Triton kernel.

In: `--size` JPEGs of 512 x 384 pixels, in memory, made once and kept. Out: each picture grey and shrunk by 4, uint8.
`ours` lets libjpeg decode brightness alone and shrinks it. The others decode red, green and blue, and convert: by
Pillow (`pillow`), torch on the CPU (`torch`), torch on a GPU (`torch_cuda`), torch compiled for it (`compiled_cuda`)
and one kernel (`kernel`). All decode with `--workers` threads. Those on a GPU are left out where there is none.

Those that convert must be equal bit for bit, ours within NEAR on average and FAR at most. Beside the whole are seconds
by part: decode_s, copy_s to the GPU and back, grey_s, which on a GPU is the mean of REPEATS; the whole counts one.

    raymill bench images [--size N] [--workers 2] [--runs 3] [--peer kernel] [--json FILE|-]
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Case, SelfTimed, Setup, Timed
from benchmarks.inputs import SEED, kept
from benchmarks.machine import gpu, needs_torch

WIDTH, HEIGHT, FACTOR = 512, 384, 4
NEAR, FAR = 1.0, 8  # levels of 256 that rounding there and back may differ by
REPEATS = 20
ON_GPU = ("torch_cuda", "compiled_cuda", "kernel")


@dataclass(frozen=True)
class Job:
    jpegs: list[bytes]
    threads: int


def prepare(setup: Setup) -> Job:
    needs_torch("images", "gpu")
    folder = kept(f"images-{setup.size}-{SEED}", partial(write_jpegs, setup.size))
    return Job([file.read_bytes() for file in sorted(folder.glob("*.jpg"))], setup.workers)


def write_jpegs(count: int, folder: Path) -> None:
    """Write pictures with edges and texture, which take JPEG's bytes as photographs do: some 50 kB each."""
    from PIL import Image

    folder.mkdir(parents=True)
    for index in range(count):
        rng = np.random.default_rng([SEED, index])
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.int16)
        blocks = np.kron(rng.integers(-40, 40, (HEIGHT // 16, WIDTH // 16, 1)), np.ones((16, 16, 1), dtype=np.int16))
        noisy = smooth + blocks + rng.normal(0, 8, (HEIGHT, WIDTH, 1)).astype(np.int16)
        file = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
        (folder / f"{index:06d}.jpg").write_bytes(file.getvalue())


def measure_input(job: Job) -> dict[str, int]:
    return {"bytes": sum(map(len, job.jpegs)), "pixels": len(job.jpegs) * WIDTH * HEIGHT}


def ours(job: Job) -> SelfTimed:
    from tasks.deep import grey

    started = time.perf_counter()
    found = np.stack(
        grey.in_threads(lambda data: np.asarray(grey.luma(io.BytesIO(data)).reduce(FACTOR)), job.jpegs, job.threads)
    )
    wall_s = time.perf_counter() - started
    return SelfTimed(wall_s, found, {"decode_s": wall_s})


def decoded(job: Job) -> list[Any]:
    from tasks.deep import grey

    return grey.in_threads(lambda data: grey.pixels(io.BytesIO(data)), job.jpegs, job.threads)


def pillow(job: Job) -> SelfTimed:
    from tasks.deep import grey

    started = time.perf_counter()
    pictures = decoded(job)
    read = time.perf_counter()
    found = np.stack(grey.in_threads(lambda picture: grey.grey_by_pillow(picture, FACTOR), pictures, job.threads))
    return _timed(found, decode_s=read - started, copy_s=0.0, grey_s=time.perf_counter() - read)


def torch_cpu(job: Job) -> SelfTimed:
    import torch

    from tasks.deep import grey

    before = torch.get_num_threads()
    torch.set_num_threads(job.threads)
    try:
        started = time.perf_counter()
        pictures = torch.from_numpy(np.stack(decoded(job)))
        read = time.perf_counter()
        found = torch.cat([grey.grey_by_torch(part, FACTOR) for part in pictures.split(16)])  # of a cache's size
        grey_s = time.perf_counter() - read
    finally:
        torch.set_num_threads(before)
    return _timed(found.numpy(), decode_s=read - started, copy_s=0.0, grey_s=grey_s)


def torch_cuda(job: Job) -> SelfTimed:
    from tasks.deep import grey

    return by_gpu(job, grey.grey_by_torch)


def compiled_cuda(job: Job) -> SelfTimed:
    import torch

    from tasks.deep import grey

    return by_gpu(job, torch.compile(grey.grey_by_torch))


def kernel(job: Job) -> SelfTimed:
    from tasks.deep.grey_kernel import grey_by_kernel

    return by_gpu(job, grey_by_kernel)


def by_gpu(job: Job, convert: Callable[[Any, int], Any]) -> SelfTimed:
    import torch

    started = time.perf_counter()
    pictures = torch.from_numpy(np.stack(decoded(job)))
    read = time.perf_counter()
    there = pictures.to("cuda")
    torch.cuda.synchronize()
    copied = time.perf_counter()
    for _ in range(REPEATS):
        found = convert(there, FACTOR)
    torch.cuda.synchronize()
    converted = time.perf_counter()
    here = found.cpu().numpy()
    copy_s = copied - read + time.perf_counter() - converted
    return _timed(here, decode_s=read - started, copy_s=copy_s, grey_s=(converted - copied) / REPEATS)


def _timed(found: Any, **parts: float) -> SelfTimed:
    return SelfTimed(sum(parts.values()), found, parts)


def check(job: Job, ours: Any, peers: Mapping[str, Any]) -> str:
    converted = peers or {"pillow": pillow(job).output}
    name, expected = next(iter(converted.items()))
    for other, found in converted.items():
        assert found.shape == expected.shape == (len(job.jpegs), HEIGHT // FACTOR, WIDTH // FACTOR), other
        differs = int((found != expected).sum())
        assert not differs, f"{differs} pixels of {other} are not those of {name}"
    apart = np.abs(ours.astype(np.int16) - expected.astype(np.int16))
    assert apart.mean() <= NEAR, f"ours is {apart.mean():.2f} levels from {name} on average"
    assert apart.max() <= FAR, f"ours is {apart.max()} levels from {name}"
    return (
        f"pixels of {', '.join(converted)} are equal; ours are {apart.mean():.3f} of 256 levels from them on average, "
        f"{apart.max()} at most"
    )


def details(job: Job, runs: Mapping[str, Sequence[Timed]]) -> dict[str, dict[str, Any]]:
    """Return pictures a second of the whole, and on which device."""
    speeds = {name: [len(job.jpegs) / run.wall_s for run in timed] for name, timed in runs.items()}
    return {
        name: {
            "pictures_per_s": round(statistics.median(speed)),
            "device": gpu() if name in ON_GPU else "cpu",
        }
        for name, speed in speeds.items()
    }


def skip(size: int) -> Mapping[str, str]:
    if not gpu():
        return dict.fromkeys(ON_GPU, "no GPU here that torch can use")
    return {} if find_spec("triton") else {"kernel": "the extra gpu is not installed"}


CASE = Case(
    name="images",
    size_of="pictures",
    default_size=500,
    prepare=prepare,
    ours=ours,
    peers={
        "pillow": pillow,
        "torch": torch_cpu,
        "torch_cuda": torch_cuda,
        "compiled_cuda": compiled_cuda,
        "kernel": kernel,
    },
    check=check,
    measure_input=measure_input,
    details=details,
    keeps_outputs=False,
    skip=skip,
)
