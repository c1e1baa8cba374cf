"""JPEGs for tests."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def jpeg(size: tuple[int, int], *, mode: str = "RGB", seed: int = 0, **options: Any) -> bytes:
    """Return a JPEG of smooth colours, (width, height)."""
    coarse = np.random.default_rng(seed).integers(60, 200, (4, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()
