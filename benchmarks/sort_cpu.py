"""CPU seconds of a sort's phases in one process, beside numpy and Polars: what a busy machine distorts little.

Wall time tells how fast a sort is on an idle machine; CPU seconds tell how much work it is. Ours divided by the number
of workers is the wall time that they cannot beat, before any message. All sides sort on one thread but Polars, whose
threads' seconds are added up.

    python -m benchmarks.sort_cpu [--rows 10000000] [--trials 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from benchmarks.sorting import BLOCKS, KEY
from tasks.parallel.sort_steps import Part, cut, merged, sample
from tasks.parallel.sorted_runs import Splitters, splitters

Seconds = dict[str, list[float]]


def measure(table: pa.Table, trials: int, peers: dict[str, Callable[[], Any]]) -> Seconds:
    """Time our phases and the peers in turn; the first turn warms up."""
    rows = table.num_rows
    blocks = [table.slice(rows * i // BLOCKS, rows // BLOCKS) for i in range(BLOCKS)]
    found: Seconds = defaultdict(list)

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.process_time()
        result = work()
        found[name].append(time.process_time() - started)
        return result

    for _ in range(trials + 1):
        samples = [sample(i, block, KEY) for i, block in enumerate(blocks)]
        cuts = timed("splitters", partial(splitters, samples, BLOCKS, KEY))
        parts = timed("sort runs, cut", partial(_cut_all, blocks, cuts))
        timed("merge", partial(_merge_all, parts))
        for name, peer in peers.items():
            timed(name, peer)
    return {name: seconds[1:] for name, seconds in found.items()}


def _cut_all(blocks: list[pa.Table], cuts: Splitters) -> list[list[Part]]:
    return [list(cut(i, block, KEY, cuts, BLOCKS)) for i, block in enumerate(blocks)]


def _merge_all(parts: list[list[Part]]) -> list[pa.Table]:
    return [merged(KEY, [of_block[p] for of_block in parts]) for p in range(BLOCKS)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sort_cpu", description="CPU seconds of a sort.")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--trials", type=int, default=5)
    given = parser.parse_args()
    rng = np.random.default_rng(7)
    floats, keys = rng.standard_normal(given.rows), rng.integers(-(2**62), 2**62, given.rows)
    kept, pairs = np.empty_like(floats), pl.DataFrame({"key": keys, "payload": np.arange(given.rows)})

    def numpy() -> None:
        np.copyto(kept, floats)
        kept.sort()

    cases: dict[str, tuple[pa.Table, dict[str, Callable[[], Any]]]] = {
        "float64": (pa.table({"key": floats}), {"numpy": numpy, "polars": lambda: pl.Series(floats).sort()}),
        "int64 key, 8 bytes": (pairs.to_arrow(), {"polars": lambda: pairs.sort("key", maintain_order=True)}),
    }
    for what, (table, peers) in cases.items():
        print(f"{given.rows:,} rows, {what}")
        for name, seconds in measure(table, given.trials, peers).items():
            print(f"  {name:16} {statistics.median(seconds):.3f} ({min(seconds):.3f}-{max(seconds):.3f})")


if __name__ == "__main__":
    main()
