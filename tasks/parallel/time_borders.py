"""Borders in time: where to cut a table so that each slice is strictly later than the one before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tasks.engines import cluster

BINS = 65_536
Times = Callable[[Path], np.ndarray]


def timestamps_ms(file: Path) -> np.ndarray:
    """The timestamp column as int64 milliseconds."""
    column = pq.ParquetFile(file).read(columns=["timestamp"])["timestamp"]
    times: np.ndarray = column.combine_chunks().cast("int64").to_numpy(zero_copy_only=False)
    return times


def borders(files: Sequence[Path], fractions: Sequence[float], times_of: Times = timestamps_ms) -> list[int]:
    """Timestamps (ms since 1970, UTC) below which at least these shares of the rows lie; none where there is no row.

    From a histogram of 65,536 equal bins, counted in Ray tasks: rows of one timestamp are in one bin, so a border never
    parts them. Where one bin holds more than a slice, two borders are the same and the slice between is empty.
    times_of: the timestamps of a file in ms, if not those of all its rows.
    """
    import ray

    ends = ray.remote(_ends)
    found = [pair for pair in cluster.gather(ends.remote(f, times_of) for f in files) if pair]
    if not found:
        return []
    low, high = min(low for low, _ in found), max(high for _, high in found)
    width = max(1, -(-(high - low + 1) // BINS))  # ceiling: 1 ms at least
    count = ray.remote(_histogram)
    counts = np.sum(cluster.gather(count.remote(f, low, width, times_of) for f in files), axis=0)
    shares = np.cumsum(counts) / counts.sum()
    # The border is the upper edge of the first bin that fills the share; 1e-9 forgives the sum's rounding.
    return [int(low + width * (int(np.searchsorted(shares, f - 1e-9)) + 1)) for f in fractions]


def _ends(file: Path, times_of: Times) -> tuple[int, int] | None:
    times = times_of(file)
    return (int(times.min()), int(times.max())) if len(times) else None


def _histogram(file: Path, low: int, width: int, times_of: Times) -> np.ndarray:
    return np.bincount((times_of(file) - low) // width, minlength=BINS)
