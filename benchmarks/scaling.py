"""What a table of seconds by workers says: speed-up, efficiency, the serial fraction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

PERCENTILES = (50, 95, 99)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and p99: values that occur (no interpolation), so that a tail is not averaged away."""
    found = np.percentile(np.asarray(values, float), PERCENTILES, method="higher")
    return {f"p{p}": float(value) for p, value in zip(PERCENTILES, found, strict=True)}


def balance(busy: Sequence[float]) -> float:
    """Return the busiest worker's seconds over their mean: 1 is even, the number of workers is one alone."""
    return float(np.max(busy) / np.mean(busy))


def karp_flatt(speed_up: float, workers: int) -> float:
    """Return the experimentally determined serial fraction (Karp and Flatt 1990) of p > 1 workers.

    e = (1/S - 1/p) / (1 - 1/p). One that grows with p is overhead, not serial work. Below 0 the speed-up is
    superlinear.
    """
    return (1 / speed_up - 1 / workers) / (1 - 1 / workers)


def amdahl(seconds: Mapping[int, float]) -> tuple[float, float]:
    """Fit T(p) = T1 (s + (1 - s) / p) to seconds by workers, by least squares; return T1 and the serial fraction s.

    Amdahl (1967). Needs two numbers of workers or more.
    """
    p = np.array(sorted(seconds), float)
    t = np.array([seconds[int(workers)] for workers in p])
    serial, parallel = np.linalg.lstsq(np.column_stack([np.ones_like(p), 1 / p]), t, rcond=None)[0]
    return float(serial + parallel), float(serial / (serial + parallel))
