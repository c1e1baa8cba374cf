"""Measure partitioned scoring over strategies, workers, rows per chunk and two kinds of work.

    python -m benchmarks.partition_matrix --out bench-results/partition [--size ROWS] [--runs R] [--work NAME]

Writes matrix.csv and matrix.json (a line per cell), scaling.json (Amdahl's fit per work, strategy and chunk size), the
pictures bars.png, lines.png and heatmap-WORK.png, and index.html with all of it. Every cell's predictions have the same
digest, or nothing is written. In a cell the median of R timed runs counts, after one run with memory sampled;
strategies take turns so that they share what else the machine does. CPU seconds are those of all workers; memory is the
peak of all processes (PSS).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import matrix_plots, scaling
from benchmarks import scoring_work as work
from benchmarks.machine import PeakMemory, machine
from benchmarks.matrix_page import page
from tasks.parallel import partition, pool
from tasks.parallel.chunks import Chunk, chunks_of
from tasks.parallel.partition import Result
from tasks.parallel.partition_plan import STRATEGIES, Strategy

WORKS = ("booster", "lookups")
WORKERS = (1, 2, 4)
CHUNK_ROWS = (2_048, 8_192, 32_768)
Cell = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.partition_matrix")
    parser.add_argument("--out", type=Path, required=True, help="a folder for tables and pictures")
    parser.add_argument("--size", type=int, default=200_000, help="rows")
    parser.add_argument("--work", choices=WORKS, action="append", help="only this kind of work; repeatable")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each cell")
    given = parser.parse_args()
    cells = measure(given.size, given.runs, given.work or WORKS)
    write(given.out, cells, given.size)
    return 0


def measure(size: int, runs: int, works: Sequence[str] = WORKS) -> list[Cell]:
    """Measure all cells; starts and stops Ray."""
    from tasks.engines import cluster
    from tasks.settings import load_settings

    cluster.start(load_settings(overrides=[f"ray.logical_cpus={max(WORKERS)}"]).ray)
    try:
        files, model = work.rows(size), work.model()
        makes = {"booster": partial(work.booster, model), "lookups": partial(work.lookups, work.cells())}
        return [
            cell
            for name, rows, workers in itertools.product(works, CHUNK_ROWS, WORKERS)
            for cell in _row(name, makes[name], chunks_of(files, rows, work.COLUMNS), rows, workers, runs)
        ]
    finally:
        pool.clear()
        cluster.stop()


def _row(name: str, make: Any, chunks: Sequence[Chunk], rows: int, workers: int, runs: int) -> list[Cell]:
    """Measure the cells of all strategies, in turn."""
    peaks, digests = {}, set()
    for strategy in STRATEGIES:
        with PeakMemory() as memory:
            digests.add(_run(make, chunks, strategy, workers)[2])
        peaks[strategy] = memory.peak_bytes
    timed: dict[str, list[tuple[float, Result]]] = {strategy: [] for strategy in STRATEGIES}
    for _ in range(runs):
        for strategy in STRATEGIES:
            wall_s, result, digest = _run(make, chunks, strategy, workers)
            timed[strategy].append((wall_s, result))
            digests.add(digest)
    assert len(digests) == 1, f"digests differ: {digests}"
    ((total, _),) = digests
    cells = []
    for strategy in STRATEGIES:
        walls = [wall_s for wall_s, _ in timed[strategy]]
        spans = [span for _, result in timed[strategy] for span in result.spans]
        busy = [
            [sum(s.seconds for s in result.spans if s.worker == worker) for worker in range(workers)]
            for _, result in timed[strategy]
        ]
        cells.append(
            {
                "work": name,
                "strategy": strategy,
                "workers": workers,
                "chunk_rows": rows,
                "chunks": len(chunks),
                "rows": total,
                "median_s": statistics.median(walls),
                "min_s": min(walls),
                "max_s": max(walls),
                "rows_per_s": total / statistics.median(walls),
                **{f"chunk_{p}_s": value for p, value in scaling.percentiles([s.seconds for s in spans]).items()},
                "workers_cpu_s": sum(s.cpu_s for s in spans) / runs,
                "peak_rss_bytes": peaks[strategy],
                "balance": statistics.median(scaling.balance(of_run) for of_run in busy),
            }
        )
        sys.stderr.write(f"{name} {rows} rows {workers} workers {strategy}: {cells[-1]['median_s']:.3f} s\n")
    return cells


def _run(make: Any, chunks: Sequence[Chunk], strategy: Strategy, workers: int) -> tuple[float, Result, work.Digest]:
    with tempfile.TemporaryDirectory() as out:
        sink = partial(work.write_part, out)
        began = time.perf_counter()
        result = partition.run(chunks, make, strategy=strategy, workers=workers, sink=sink, columns=work.COLUMNS)
        return time.perf_counter() - began, result, work.added(result.receipts)


def with_scaling(cells: Sequence[Cell]) -> list[Cell]:
    """Add speed-up and efficiency against one worker of the same strategy, and Karp and Flatt's fraction."""
    alone = {(c["work"], c["strategy"], c["chunk_rows"]): c["median_s"] for c in cells if c["workers"] == 1}
    scaled = []
    for cell in cells:
        workers = cell["workers"]
        speed_up = alone[cell["work"], cell["strategy"], cell["chunk_rows"]] / cell["median_s"]
        fraction = scaling.karp_flatt(speed_up, workers) if workers > 1 else None
        scaled.append({**cell, "speed_up": speed_up, "efficiency": speed_up / workers, "karp_flatt": fraction})
    return scaled


def fits(cells: Sequence[Cell], cores: int) -> list[Cell]:
    """Fit Amdahl's law per work, strategy and chunk size, to the cells with no more workers than cores."""
    groups: dict[tuple[str, str, int], dict[int, float]] = {}
    for cell in cells:
        if cell["workers"] <= cores:
            key = cell["work"], cell["strategy"], cell["chunk_rows"]
            groups.setdefault(key, {})[cell["workers"]] = cell["median_s"]
    found = []
    for (name, strategy, rows), seconds in groups.items():
        if len(seconds) > 1:
            alone, serial = scaling.amdahl(seconds)
            found.append(
                {"work": name, "strategy": strategy, "chunk_rows": rows, "alone_s": alone, "serial_fraction": serial}
            )
    return found


def write(out: Path, cells: Sequence[Cell], size: int) -> None:
    """Write tables and pictures."""
    out.mkdir(parents=True, exist_ok=True)
    facts = machine()
    scaled = [_rounded(cell) for cell in with_scaling(cells)]
    fitted = [_rounded(fit) for fit in fits(cells, facts["cores"])]
    pictures = matrix_plots.pictures(scaled, facts["cores"])
    with (out / "matrix.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(scaled[0]))
        table.writeheader()
        table.writerows(scaled)
    (out / "matrix.json").write_text(json.dumps({"rows": size, "cells": scaled, "machine": facts}, indent=1))
    (out / "scaling.json").write_text(json.dumps(fitted, indent=1))
    for name, picture in pictures.items():
        (out / name).write_bytes(picture)
    (out / "index.html").write_text(page(scaled, fitted, list(pictures), size, facts))


def _rounded(cell: Cell) -> Cell:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in cell.items()}


if __name__ == "__main__":
    sys.exit(main())
