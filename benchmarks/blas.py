"""Throughput of BLAS by level, size, dtype and threads: how far a product of matrices is from a sum of vectors.

A product of n x n matrices does n/12 operations for each byte it moves (float64), so it is limited by arithmetic; a dot
product does an eighth of one, so it is limited by memory, and more threads help only until that is full.

    python -m benchmarks.blas [--sizes 64 256 1024] [--threads 1 2]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

TRIALS = 10
LEAST_S = 0.01  # a trial repeats its call until it takes as long


class Rate(NamedTuple):
    """operation: dot (level 1), gemv (2) or gemm (3). GFLOP/s: the median of the trials, least and greatest."""

    operation: str
    size: int
    dtype: str
    threads: int
    median: float
    least: float
    greatest: float


def rates(sizes: Sequence[int], dtypes: Sequence[str], threads: Sequence[int]) -> Iterator[Rate]:
    for size in sizes:
        for dtype in dtypes:
            a, b = np.random.default_rng(size).standard_normal((2, size, size)).astype(dtype)
            out, vector = np.empty_like(a), np.empty(size, dtype)
            calls: dict[str, tuple[Callable[[], Any], int]] = {
                "dot": (partial(np.dot, a.ravel(), b.ravel()), 2 * size**2),
                "gemv": (partial(np.dot, a, b[0], out=vector), 2 * size**2),
                "gemm": (partial(np.matmul, a, b, out=out), 2 * size**3),
            }
            for count in threads:
                with threadpool_limits(count, "blas"):
                    for name, (call, operations) in calls.items():
                        found = [operations / 1e9 / s for s in seconds(call)]
                        yield Rate(name, size, dtype, count, statistics.median(found), min(found), max(found))


def seconds(call: Callable[[], Any]) -> list[float]:
    """Return the seconds of a call in each trial, after a warm-up."""
    call()
    started = time.perf_counter()
    call()
    repeats = max(1, int(LEAST_S / max(time.perf_counter() - started, 1e-9)))
    trials = []
    for _ in range(TRIALS):
        started = time.perf_counter()
        for _ in range(repeats):
            call()
        trials.append((time.perf_counter() - started) / repeats)
    return trials


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.blas", description="GFLOP/s of numpy's BLAS.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256, 1024, 2048])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    print("operation   size  dtype    threads  GFLOP/s (min-max)")
    for r in rates(given.sizes, ["float32", "float64"], given.threads):
        print(f"{r.operation:9} {r.size:6}  {r.dtype:8} {r.threads:6}  {r.median:.1f} ({r.least:.1f}-{r.greatest:.1f})")


if __name__ == "__main__":
    main()
