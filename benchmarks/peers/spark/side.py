"""Spark as a side of a bench case: a process of its own for each run, with its start told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.harness import SelfTimed
from benchmarks.peers.spark.session import missing
from benchmarks.processes import in_own_process

NOTES = ("startup_s", "first_s")


def skip(name: str = "spark") -> dict[str, str]:
    """Return the reason for which the peer of this name cannot run here, as `Case.skip` wants it; empty if it can."""
    reason = missing()
    return {name: reason} if reason else {}


def run(name: str, input: Path, scratch: Path, threads: int, *, once: bool = False) -> SelfTimed:
    """Run a peer of `benchmarks.peers.spark.alone`; `output` is (the folder with its tables, what it returned)."""
    out = scratch / f"spark-{name}"
    out.mkdir(exist_ok=True)
    more = ["--once"] if once else []
    took = in_own_process("benchmarks.peers.spark.alone", [name, str(input), str(out), *more], out, threads=threads)
    return SelfTimed(took["wall_s"], (out, took["result"]), {name: took[name] for name in NOTES})


def written(folder: Path, table: str) -> list[Path]:
    """List the parts of a table that Spark wrote, in their order."""
    return sorted((folder / f"{table}.parquet").glob("part-*.parquet"))


def output_of(side: SelfTimed, output: Any) -> SelfTimed:
    """Return the same times with another output."""
    return SelfTimed(side.wall_s, output, side.notes)
