"""Check our stages against Spark on any reviews: rows compared and rows that differ, for each job.

Our stages run first, on Ray; then Spark does each job again from what the stage read. Every value has to be the same
bits. The exit status is 1 if a row differs.

    python -m benchmarks.peers.spark.parity --input PATH [--dataset NAME] [--items PATH] [--job NAME ...] \
        [--json FILE|-]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.peers.spark.compare import Compared
from benchmarks.peers.spark.jobs import JOBS
from benchmarks.peers.spark.ours import Ours, run_stages, settings
from benchmarks.peers.spark.session import missing, session
from tasks.core.errors import InputError, RaymillError, UserError
from tasks.engines.quiet import QUIET

MEMORY_MB = 3072


def check(input: Sequence[str], dataset: str | None, items: str | None, jobs: Sequence[str]) -> dict[str, Any]:
    """Run our stages and the Spark jobs; return the rows, `compared` (a list) and seconds of both sides.

    Raises UserError if Spark cannot run here, and InputError if no dataset profile fits.
    """
    if reason := missing():
        raise UserError(reason, where="parity")
    with TemporaryDirectory(prefix="parity-") as folder:
        began = time.perf_counter()
        ours = our_side(input, dataset or profile_of(input), items, Path(folder))
        ours_s, rows = time.perf_counter() - began, ours.raw.rows()
        scratch = Path(folder) / "spark"
        scratch.mkdir()
        with session(scratch, memory_mb=MEMORY_MB) as spark:
            began = time.perf_counter()
            compared = list(spark_side(spark, ours, scratch, jobs))
            spark_s = time.perf_counter() - began
    return {
        "input": list(input),
        "rows": rows,
        "compared": [asdict(one) for one in compared],
        "differing": sum(one.differing for one in compared),
        "seconds": {"ours": round(ours_s, 1), "spark": round(spark_s, 1)},
    }


def our_side(input: Sequence[str], dataset: str, items: str | None, folder: Path) -> Ours:
    """Run our stages in a Ray session of their own."""
    from tasks.core.storage.store import SnapshotStore
    from tasks.engines import cluster
    from tasks.sources import discover

    config = settings()
    source = discover(list(input), dataset, config.ingest)
    metadata = discover([items], dataset, config.ingest_items, "items") if items else None
    cluster.start(config.ray)
    try:
        return run_stages(source, metadata, SnapshotStore(folder / "ours"), config)
    finally:
        cluster.stop()


def profile_of(input: Sequence[str]) -> str:
    """Find the shipped dataset profile that fits these files best. Raises InputError if none does."""
    from tasks.sources.inspection import inspect

    inspection = inspect(list(input))
    if inspection.chosen is None or inspection.proposed:
        raise InputError("no shipped dataset profile fits", where=", ".join(input), fix="name one with --dataset")
    return inspection.chosen.name


def spark_side(spark: Any, ours: Ours, scratch: Path, jobs: Sequence[str] = tuple(JOBS)) -> Iterator[Compared]:
    """Do the jobs in Spark, one after the other, and compare."""
    for name in jobs:
        yield from JOBS[name](spark, ours, scratch)


def table(result: dict[str, Any]) -> str:
    """Format the result for people."""
    lines = [f"{'job':<22}{'columns':>8}{'rows':>12}{'differing':>12}"]
    for one in result["compared"]:
        lines.append(f"{one['job']:<22}{one['columns']:>8}{one['rows']:>12,}{one['differing']:>12,}")
        lines += [f"  first: {one['first']}"] if one["first"] else []
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.spark.parity", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--input", action="append", required=True, help="a file, folder or glob; repeatable")
    parser.add_argument("--dataset", help="a dataset profile; guessed from the files by default")
    parser.add_argument("--items", help="product metadata")
    parser.add_argument("--job", action="append", choices=JOBS, help="only this one; repeatable")
    parser.add_argument("--json", help="write the result to this file, or to standard output (-)")
    given = parser.parse_args()
    os.environ.update(QUIET)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        result = check(given.input, given.dataset, given.items, given.job or list(JOBS))
    except RaymillError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    if given.json != "-":
        print(table(result))
    if given.json:
        text = json.dumps(result, indent=2) + "\n"
        sys.stdout.write(text) if given.json == "-" else Path(given.json).write_text(text)
    return 1 if result["differing"] else 0


if __name__ == "__main__":
    sys.exit(main())
