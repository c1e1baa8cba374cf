"""Run a Spark peer of a bench case in a process of its own, and write what it took as JSON.

    etl         raw reviews to clean ones and reviewers (benchmarks/peers/spark/etl.py)
    aggregate   a table of ratings from a large CSV file
    wordcount   the words of clean reviews
    mllib       gradient-boosted trees with cross-validation (benchmarks/peers/spark/mllib.py)

The seconds are told apart: `startup_s`, from the first import of Spark to the end of a trivial query; `first_s`, the
job in the new session, whose Java has compiled nothing yet; `wall_s`, the job once more in the same session (`--once`:
the first one), as our own stages run in processes that are warm.

    python -m benchmarks.peers.spark.alone NAME INPUT OUT [--threads 2] [--memory-mb 4096] [--once] [--json FILE|-]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.peers.spark import mllib, profiles, words
from benchmarks.peers.spark.etl import etl
from benchmarks.peers.spark.session import session
from tasks.core.errors import UserError

MEMORY_MB = 4096
RATINGS = "reviewerID string, vote string, overall double, unixReviewTime bigint, reviewTime string"


def aggregate(spark: Any, input: Path, _out: Path) -> list[dict[str, Any]]:
    """Compute the table of the case `aggregate`: a row per rounded rating."""
    from pyspark.sql import functions as F

    raw = spark.read.csv(str(input), schema=RATINGS, header=True)
    reviews = raw.select(
        F.col("reviewerID").alias("user_id"),
        F.col("overall").alias("rating"),
        F.replace("vote", F.lit(","), F.lit("")).cast("long").alias("helpful_votes"),
        F.timestamp_seconds("unixReviewTime").alias("timestamp"),
    )
    table = profiles.by_rating(reviews).orderBy("rating_bucket")
    return [row.asDict() for row in table.collect()]


def wordcount(spark: Any, input: Path, out: Path) -> None:
    reviews = spark.read.parquet(*map(str, sorted(input.glob("*.parquet"))))
    words.counted(reviews).orderBy("token").write.mode("overwrite").parquet(str(out / "words.parquet"))


def learn(spark: Any, input: Path, _out: Path) -> dict[str, Any]:
    return mllib.cross_validated(spark.read.parquet(str(input)))


PEERS: dict[str, Callable[[Any, Path, Path], Any]] = {
    "etl": etl,
    "aggregate": aggregate,
    "wordcount": wordcount,
    "mllib": learn,
}


def timed(name: str, input: Path, out: Path, *, threads: int, memory_mb: int, once: bool) -> dict[str, Any]:
    """Run a peer; return `startup_s`, `first_s`, `wall_s` and `result`. Raises UserError where Spark cannot run."""
    began = time.perf_counter()
    with ExitStack() as until_done:
        scratch = Path(until_done.enter_context(TemporaryDirectory(prefix="spark-")))
        spark = until_done.enter_context(session(scratch, threads=threads, memory_mb=memory_mb))
        spark.range(1).count()
        took: dict[str, Any] = {"threads": threads, "startup_s": time.perf_counter() - began}
        for seconds in ("first_s",) if once else ("first_s", "wall_s"):
            started = time.perf_counter()
            took["result"] = PEERS[name](spark, input, out)
            took[seconds] = time.perf_counter() - started
    return {"wall_s": took["first_s"], **took}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.spark.alone", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=PEERS)
    parser.add_argument("input", type=Path)
    parser.add_argument(
        "out", type=Path, help="an existing folder; tables that an earlier run wrote there are replaced"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-mb", type=int, default=MEMORY_MB, help="Java's heap")
    parser.add_argument("--once", action="store_true", help="time the first run, in a cold session")
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    given = parser.parse_args()
    try:
        took = timed(
            given.name, given.input, given.out, threads=given.threads, memory_mb=given.memory_mb, once=given.once
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    text = json.dumps(took) + "\n"
    sys.stdout.write(text) if given.json == "-" else Path(given.json).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
