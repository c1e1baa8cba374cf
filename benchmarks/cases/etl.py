"""Clean raw reviews and aggregate them by reviewer: our stages against the programs people write instead.

Ours: ingest, clean and describe through the stage runner, into an empty store, in a running Ray session. Validation,
which no peer does, is left out; hashing the input and every output file, keeping the raw table and the rejects, and
committing are included. Each peer (`benchmarks/peers/etl.py`) runs in its own process with as many threads as we have
workers, timed inside, after the imports. The peers keep only the result. Spark (`benchmarks/peers/spark`) is left out
where there is no Java; it does the job twice, and the second time counts: `startup_s` and `first_s` tell the rest.

    raymill bench etl [--size ROWS] [--workers W] [--json FILE|-]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Case, SelfTimed, Setup, Timed, median_run
from benchmarks.inputs import synthetic
from benchmarks.peers.spark import side as spark_side
from benchmarks.sides import StageJob, run_unvalidated, start_ray
from tasks.core.part_files import scan_parts

MOST_ROWS_IN_PANDAS = 2_000_000
TIE = ("user_id", "item_id", "timestamp")


TABLES = ("reviews", "reviewers")


@dataclass(kw_only=True)
class Job(StageJob):
    """The raw files."""

    input: Path


@dataclass(frozen=True)
class Output:
    """The files of both tables, and on our side the seconds of each stage by phase."""

    reviews: list[Path]
    reviewers: list[Path]
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)


def prepare(setup: Setup) -> Job:
    input = synthetic(setup.size)
    return Job(input=input, workers=setup.workers, scratch=setup.scratch, settings=start_ray(setup))


def measure_input(job: Job) -> dict[str, int]:
    return {"bytes": sum(f.stat().st_size for f in job.input.iterdir())}


def ours(job: Job) -> SelfTimed:
    """Run the stages once, from nothing."""
    from tasks.sources import discover
    from tasks.stages.clean.stage import clean
    from tasks.stages.describe import describe
    from tasks.stages.ingest.stage import ingest

    run, config = partial(run_unvalidated, store=job.empty_store()), job.settings
    began = time.perf_counter()  # not before: removing the last run's output does not count
    raw = run(ingest, [discover(str(job.input), "amazon-us", config.ingest)], config.ingest)
    reviews = run(clean, [raw.snapshot], config.clean)
    described = run(describe, [reviews.snapshot], config.describe)
    took = time.perf_counter() - began
    seconds = {r.snapshot.stage: dict(r.seconds) for r in (raw, reviews, described)}
    return SelfTimed(took, Output(reviews.snapshot.files(), described.snapshot.files(), seconds))


def peer(name: str) -> Callable[[Job], SelfTimed]:
    def run(job: Job) -> SelfTimed:
        out, took = job.run_peer("benchmarks.peers.etl", name, job.input)
        # Modin writes a folder of parts, the others one file.
        files = [sorted((out / f"{t}.parquet").glob("*.parquet")) for t in TABLES]
        reviews, reviewers = (parts or [out / f"{t}.parquet"] for t, parts in zip(TABLES, files, strict=True))
        return SelfTimed(took, Output(reviews, reviewers))

    return run


def spark(job: Job) -> SelfTimed:
    done = spark_side.run("etl", job.input, job.scratch, job.workers)
    reviews, reviewers = (spark_side.written(done.output[0], table) for table in TABLES)
    return spark_side.output_of(done, Output(reviews, reviewers))


def check(job: Job, ours: Output, peers: Mapping[str, Output]) -> str:
    """Compare every peer's tables with ours. Raises AssertionError naming a row that differs.

    Of two reviews by one user of one item on one day each side may keep either: those are compared by user, item and
    day, and checked to be in the input.
    """
    mine, tied = read(ours), 0
    for name, output in peers.items():
        theirs = read(output)
        ties = compare_reviews(mine[0], theirs[0], f"ours and {name}")
        compare_reviewers(mine[1], theirs[1], ties, f"ours and {name}")
        from_input(job.input, ties, name)
        tied = max(tied, len(ties))
    return (
        f"{len(mine[0]):,} reviews row for row and {len(mine[1]):,} reviewers equal to {', '.join(peers)}; "
        f"{tied} of the reviews had another of the same user, item and day, and only those were compared"
    )


def read(output: Output) -> tuple[Any, Any]:
    """Read both tables of a side as Polars frames of one schema, with texts as 64-bit hashes."""
    import polars as pl

    def scan(files: list[Path]) -> Any:
        return scan_parts(files)

    texts = pl.col("title", "text").cast(pl.String).hash(seed=1)
    plain = pl.col("review_id", "user_id", "item_id", "category").cast(pl.String)
    votes = pl.col("helpful_votes", "total_votes").cast(pl.Int64)
    rest = (pl.col("rating").cast(pl.Float32), pl.col("timestamp").cast(pl.Datetime("ms", "UTC")), "verified")
    reviews = scan(output.reviews).select(plain, texts, votes, *rest)
    integers = pl.col("reviews", "items", "first_year", "latest_year").cast(pl.Int64)
    reviewers = scan(output.reviewers).select(pl.col("user_id").cast(pl.String), "mean_rating", integers, votes)
    return reviews.collect(engine="streaming"), reviewers.collect(engine="streaming")


def compare_reviews(ours: Any, theirs: Any, who: str) -> Any:
    """Raise AssertionError unless the rows are the same except for ties; returns a row per tie: `user_id`, `item_id`,
    `timestamp`, `review_id` and `review_id_right`, the ids that the two sides chose."""
    assert len(ours) == len(theirs), f"{len(ours):,} and {len(theirs):,} reviews, {who}"
    mine, yours = (a.join(b, on=a.columns, how="anti", nulls_equal=True) for a, b in ((ours, theirs), (theirs, ours)))
    ties = mine.join(yours, on=TIE).filter(review_id_differs())
    stray = mine.join(ties, on="review_id", how="anti")
    assert not len(stray), f"{len(stray):,} reviews differ, {who}; the first: {_difference(stray, theirs)}"
    assert len(yours) == len(ties) == len(mine), f"{len(mine):,} and {len(yours):,} reviews differ, {who}"
    return ties.select(*TIE, "review_id", "review_id_right")


def review_id_differs() -> Any:
    import polars as pl

    return pl.col("review_id") != pl.col("review_id_right")


def _difference(stray: Any, theirs: Any) -> str:
    row = stray.sort("review_id").row(0, named=True)
    matches = theirs.filter(theirs["review_id"] == row["review_id"]).to_dicts()
    columns = [c for c in row if matches and row[c] != matches[0][c]]
    return f"{row['review_id']}, " + (f"in {', '.join(columns)}" if matches else "which the peer lacks")


def compare_reviewers(ours: Any, theirs: Any, ties: Any, who: str) -> None:
    """Raise AssertionError unless the rows are the same, except for mean rating and votes of reviewers with a tie."""
    loose = ["mean_rating", "helpful_votes", "total_votes"]
    mine, yours = (frame.sort("user_id") for frame in (ours, theirs))
    assert mine.drop(loose).equals(yours.drop(loose)), f"reviewers or their counts or years differ, {who}"
    mine, yours = (frame.join(ties, on="user_id", how="anti").sort("user_id") for frame in (mine, yours))
    assert mine.equals(yours), f"mean rating or votes of reviewers differ, {who}"


def from_input(input: Path, ties: Any, name: str) -> None:
    """Raise AssertionError if a side chose a review that the input lacks for that user, item and day."""
    import polars as pl

    if not len(ties):
        return
    day = pl.col("review_date").cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
    raw = pl.scan_parquet(input / "*.parquet").select(
        "review_id", user_id="customer_id", item_id="product_id", timestamp=day
    )
    for side, column in (("ours", "review_id"), (name, "review_id_right")):
        chosen = ties.select(*TIE, review_id=column)
        made_up = chosen.lazy().join(raw, on=chosen.columns, how="anti").collect(engine="streaming")
        assert not len(made_up), f"not in the input: review {made_up['review_id'][0]} of {side}"


def skip(size: int) -> dict[str, str]:
    left_out = spark_side.skip()
    if size <= MOST_ROWS_IN_PANDAS:
        return left_out
    reason = f"more than {MOST_ROWS_IN_PANDAS:,} rows: it holds the whole table and copies of it in memory"
    return left_out | dict.fromkeys(("pandas", "modin_naive"), reason)


def details(job: Job, runs: Mapping[str, Sequence[Timed]]) -> dict[str, dict[str, Any]]:
    """Report the seconds of our median run by stage and phase."""
    return {"ours": {"stages_s": median_run(runs["ours"]).output.seconds}}


CASE = Case(
    name="etl",
    size_of="rows",
    default_size=1_000_000,
    prepare=prepare,
    ours=ours,
    peers={**{name: peer(name) for name in ("polars", "polars_tuned", "pandas", "modin_naive")}, "spark": spark},
    check=check,
    measure_input=measure_input,
    details=details,
    check_is_warm_up=True,
    skip=skip,
)
