"""Aggregate ten million ratings in CSV by stars: our shuffle against one Polars query.

In: a synthetic CSV file with the columns reviewerID, vote ("1,234", mostly empty), overall, unixReviewTime (seconds)
and reviewTime ("09 13, 2009"). Out: a row per rounded rating with its reviews, its exact number of distinct reviewers,
the mean of its helpful votes (missing ones are 0), and the earliest year. Ours computes describe's "ratings" table on
byte ranges of the file; the peers run in their own processes, timed inside: Polars on either of its engines, and Spark
where there is Java, which does the job twice, and the second time counts (`startup_s` and `first_s` tell the rest).

    raymill bench aggregate [--size ROWS] [--workers W] [--json FILE|-]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from benchmarks.harness import Case, SelfTimed, Setup
from benchmarks.inputs import SEED, kept
from benchmarks.peers.spark import side as spark_side
from benchmarks.processes import in_own_process
from benchmarks.sides import start_ray

CHUNK = 262_144
RANGE_BYTES, BUCKETS = 32 << 20, 4
COLUMNS = ("reviewerID", "vote", "overall", "unixReviewTime", "reviewTime")
FIRST_DAY, LAST_DAY = 10_957, 16_800  # 2000-01-01 and 2015-12-31, in days since 1970

Table = list[dict[str, Any]]  # a row per rating: rating_bucket, reviews, reviewers, mean_helpful_votes, earliest_year
Range = tuple[str, int, int]  # path, first byte, byte after the last: whole lines


@dataclass(frozen=True)
class Job:
    """The file, and the peers' output folder."""

    input: Path
    workers: int
    scratch: Path


def prepare(setup: Setup) -> Job:
    input = kept(f"ratings-{setup.size}-{SEED}.csv", partial(write_ratings, setup.size))
    start_ray(setup)
    return Job(input, setup.workers, setup.scratch)


def write_ratings(rows: int, path: Path) -> None:
    """Write the CSV file, CHUNK rows at a time; a smaller file is the beginning of a bigger one."""
    with path.open("wb") as file:
        file.write(",".join(COLUMNS).encode() + b"\n")
        for index in range(-(-rows // CHUNK)):
            ratings(index).head(rows - index * CHUNK).write_csv(file, include_header=False)


def ratings(index: int) -> Any:
    """Make CHUNK rows, a function of the index alone. Half of the reviews are by a tenth of the reviewers."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng([SEED, index])
    user = (100 * ((1 + 30_000_000 / 100) ** rng.random(CHUNK) - 1)).astype(np.int64)  # Zipf-Mandelbrot
    day = FIRST_DAY + ((LAST_DAY - FIRST_DAY) * rng.random(CHUNK) ** 0.4).astype(np.int64)
    votes = np.clip(np.exp(rng.normal(1.2, 2, CHUNK)), 1, 999_999).astype(np.int64)
    stars = rng.choice([1.0, 2.0, 3.0, 4.0, 5.0], CHUNK, p=[0.08, 0.06, 0.09, 0.19, 0.58])
    frame = pl.DataFrame({"user": user, "vote": votes, "overall": stars, "unixReviewTime": day * 86_400})
    date = pl.from_epoch("unixReviewTime")
    return frame.select(
        reviewerID="A" + (pl.col("user") * 2_654_435_761 % 10**12).cast(pl.String).str.zfill(12),
        vote=pl.when(pl.Series(rng.random(CHUNK) < 0.15)).then(_grouped(pl.col("vote"))),
        overall="overall",
        unixReviewTime="unixReviewTime",
        reviewTime=date.dt.strftime("%m %-d, %Y"),
    )


def _grouped(number: Any) -> Any:
    """Format numbers below a million with a comma before the thousands."""
    import polars as pl

    low = (number % 1000).cast(pl.String).str.zfill(3)
    return pl.when(number < 1000).then(number.cast(pl.String)).otherwise((number // 1000).cast(pl.String) + "," + low)


def measure_input(job: Job) -> dict[str, int]:
    return {"bytes": job.input.stat().st_size}


def ours(job: Job) -> Table:
    """Read byte ranges of the file in Ray tasks, bring each reviewer's ratings together, and add up."""
    from tasks.engines import cluster
    from tasks.parallel.exchange import shuffle
    from tasks.stages.describe import ratings_table

    sums = shuffle(list(ranges(job.input, RANGE_BYTES)), split_by_user, add_up, BUCKETS)
    table: Table = ratings_table(cluster.gather(sums)).to_pylist()
    return table


def ranges(path: Path, size: int) -> Iterator[Range]:
    """Cut a CSV file without line breaks inside quotes into ranges of about `size` bytes, without the header."""
    end = path.stat().st_size
    with path.open("rb") as file:
        file.readline()
        start = file.tell()
        while start < end:
            file.seek(min(start + size, end) - 1)
            file.readline()
            yield str(path), start, file.tell()
            start = file.tell()


def split_by_user(part: Range, buckets: int) -> list[Any]:
    import polars as pl

    from tasks.parallel.exchange import hash_partition

    return hash_partition(read_range(part), pl.col("user_id").hash(1), buckets)


def read_range(part: Range) -> Any:
    """Read one byte range as describe's columns: user_id, rating, helpful_votes, timestamp."""
    import polars as pl

    path, start, end = part
    with open(path, "rb") as file:
        file.seek(start)
        data = file.read(end - start)
    raw = pl.read_csv(data, has_header=False, schema=schema(), columns=[0, 1, 2, 3])
    return raw.select(
        user_id="reviewerID", rating="overall", helpful_votes=votes(), timestamp=pl.from_epoch("unixReviewTime")
    )


def schema() -> dict[str, Any]:
    import polars as pl

    return dict(zip(COLUMNS, (pl.String, pl.String, pl.Float64, pl.Int64, pl.String), strict=True))


def votes() -> Any:
    import polars as pl

    return pl.col("vote").str.replace_all(",", "", literal=True).cast(pl.Int64)


def add_up(_bucket: int, slices: list[Any]) -> Any:
    import polars as pl
    import pyarrow as pa

    from tasks.stages.describe import partial_ratings

    return partial_ratings(pl.DataFrame(pl.from_arrow(pa.concat_tables(slices)))).to_arrow()


def polars_query(input: Path, engine: Literal["streaming", "in-memory"]) -> Table:
    """Compute the same by one lazy query, on the engine "streaming" or "in-memory"."""
    import polars as pl

    # In float64, as it is read: half up, not to even.
    bucket = (pl.col("overall") + 0.5).floor().cast(pl.Int8).alias("rating_bucket")
    table: Table = (
        pl.scan_csv(input, schema=schema())
        .group_by(bucket)
        .agg(
            reviews=pl.len(),
            reviewers=pl.col("reviewerID").n_unique(),
            mean_helpful_votes=votes().fill_null(0).sum() / pl.len(),
            earliest_year=pl.from_epoch(pl.col("unixReviewTime").min()).dt.year(),
        )
        .sort("rating_bucket")
        .collect(engine=engine)
        .to_dicts()
    )
    return table


def polars(engine: str) -> Callable[[Job], SelfTimed]:
    def run(job: Job) -> SelfTimed:
        took = in_own_process("benchmarks.cases.aggregate", [str(job.input), engine], job.scratch, threads=job.workers)
        return SelfTimed(took["wall_s"], took["table"])

    return run


def spark(job: Job) -> SelfTimed:
    done = spark_side.run("aggregate", job.input, job.scratch, job.workers)
    return spark_side.output_of(done, done.output[1])


def check(_job: Job, ours: Table, peers: Mapping[str, Table]) -> str:
    for name, theirs in peers.items():
        assert ours == theirs, f"ours {ours}, {name} {theirs}"
    reviews = sum(row["reviews"] for row in ours)
    return f"{len(ours)} ratings of {reviews:,} reviews, every count and mean equal to {', '.join(peers)}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cases.aggregate", description="The peer alone.")
    parser.add_argument("input", type=Path)
    parser.add_argument("engine", choices=["streaming", "in-memory"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    given = parser.parse_args()
    os.environ["POLARS_MAX_THREADS"] = str(given.threads)  # read when Polars first runs
    import polars as pl

    assert pl.thread_pool_size() == given.threads
    started = time.perf_counter()
    table = polars_query(given.input, given.engine)
    took = json.dumps({"wall_s": time.perf_counter() - started, "table": table}) + "\n"
    sys.stdout.write(took) if given.json == "-" else Path(given.json).write_text(took)
    return 0


CASE = Case(
    name="aggregate",
    size_of="rows",
    default_size=10_000_000,
    prepare=prepare,
    ours=ours,
    # Which of the two is faster depends on the size and the machine.
    peers={"polars": polars("streaming"), "polars_in_memory": polars("in-memory"), "spark": spark},
    check=check,
    measure_input=measure_input,
    skip=lambda _size: spark_side.skip(),
)


if __name__ == "__main__":
    sys.exit(main())
