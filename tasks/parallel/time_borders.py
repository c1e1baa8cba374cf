"""Find borders in time that cut a table into slices, each strictly later than the one before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tasks.engines import cluster

BINS = 65_536
Times = Callable[[Path], np.ndarray]


def timestamps_ms(file: Path) -> np.ndarray:
    """Return a file's timestamp column as int64 milliseconds."""
    column = pq.ParquetFile(file).read(columns=["timestamp"])["timestamp"]
    times: np.ndarray = column.combine_chunks().cast("int64").to_numpy(zero_copy_only=False)
    return times


def borders(files: Sequence[Path], fractions: Sequence[float], times_of: Times = timestamps_ms) -> list[int]:
    """Return timestamps (ms since 1970, UTC) below which at least these shares of the rows lie; none without any rows.

    They come from a histogram of 65,536 equal bins, counted in Ray tasks. Rows of one timestamp are in one bin, so no
    border separates them. If one bin holds more than a slice, two borders are equal and the slice between is empty.
    times_of: returns the timestamps of a file in ms, by default those of all its rows.
    """
    import ray

    ends = ray.remote(_ends)
    ranges = [pair for pair in cluster.gather(ends.remote(f, times_of) for f in files) if pair]
    if not ranges:
        return []
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    width = max(1, -(-(high - low + 1) // BINS))  # ceiling division, at least 1 ms
    count = ray.remote(_histogram)
    counts = np.sum(cluster.gather(count.remote(f, low, width, times_of) for f in files), axis=0)
    shares = np.cumsum(counts) / counts.sum()
    # A border is the upper edge of the first bin that reaches the share; 1e-9 allows for rounding in the sum.
    return [int(low + width * (int(np.searchsorted(shares, f - 1e-9)) + 1)) for f in fractions]


def _ends(file: Path, times_of: Times) -> tuple[int, int] | None:
    times = times_of(file)
    return (int(times.min()), int(times.max())) if len(times) else None


def _histogram(file: Path, low: int, width: int, times_of: Times) -> np.ndarray:
    return np.bincount((times_of(file) - low) // width, minlength=BINS)
