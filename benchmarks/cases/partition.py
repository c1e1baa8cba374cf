"""Score parquet with a booster of 300 trees: three ways to spread it over workers, and one process.

In: files of 50 float32 features (benchmarks/scoring_work.py), in chunks of 16,384 rows. Out: a file of predictions per
chunk. Ours is `dynamic`; `uniform` and `sharded` are the other strategies of tasks/parallel/partition.py, in the same
warm session; the model is loaded again in each run. `one_process` reads, predicts and writes batches of 65,536 rows
with as many threads as we have workers, without its imports. Equal are the rows, and the sum of a hash of each row's
number and prediction.

Beside the timed sides: one worker of each strategy slowed four times (it sleeps after each chunk, as a slower machine
would leave our cores alone), a worker killed half way, and what makes speed-ups look larger than they are: a row at a
time as the peer, a cold session, tables through the driver.

    raymill bench partition [--size ROWS] [--workers W] [--runs R] [--json FILE|-]
    python -m benchmarks.partition_matrix --out DIR        strategies x workers x chunk rows x kind of work
    python -m benchmarks.cases.partition INPUT MODEL OUT [--threads 2]     the peer alone
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import scoring_work as work
from benchmarks.harness import Case, SelfTimed, Setup, Timed
from benchmarks.processes import in_own_process
from benchmarks.scaling import balance, percentiles
from benchmarks.sides import start_ray
from tasks.parallel import partition
from tasks.parallel.chunks import Chunk, chunks_of
from tasks.parallel.partition import Result
from tasks.parallel.partition_plan import STRATEGIES, Strategy
from tasks.parallel.partition_worker import Score

CHUNK_ROWS = 16_384
BATCH_ROWS = 65_536
SLOWED = 4
ROW_LOOP_ROWS = 500
RUNS_SLOWED = 3


@dataclass(frozen=True)
class Job:
    files: list[Path]
    chunks: list[Chunk]
    model: str
    workers: int
    scratch: Path


@dataclass(frozen=True)
class Output:
    digest: work.Digest
    result: Result | None = None


def prepare(setup: Setup) -> Job:
    files, model = work.rows(setup.size), work.model()
    start_ray(setup)
    chunks = chunks_of(files, CHUNK_ROWS, work.COLUMNS)
    return Job(files, chunks, model, setup.workers, setup.scratch)


def measure_input(job: Job) -> dict[str, int]:
    return {"bytes": sum(f.stat().st_size for f in job.files), "chunks": len(job.chunks)}


def spread(job: Job, strategy: Strategy, make: Any = work.booster, arguments: Sequence[Any] | None = None) -> SelfTimed:
    """Score everything by a strategy, into a new folder."""
    with tempfile.TemporaryDirectory(dir=job.scratch) as out:
        began = time.perf_counter()
        result = partition.run(
            job.chunks,
            make,
            (job.model,) if arguments is None else arguments,
            strategy=strategy,
            workers=job.workers,
            sink=partial(work.write_part, out),
            columns=work.COLUMNS,
        )
        took = time.perf_counter() - began
    return SelfTimed(took, Output(work.added(result.receipts), result))


def one_process(job: Job) -> SelfTimed:
    with tempfile.TemporaryDirectory(dir=job.scratch) as folder:
        arguments = [str(job.files[0].parent), job.model, f"{folder}/out"]
        took = in_own_process("benchmarks.cases.partition", arguments, Path(folder), threads=job.workers)
    return SelfTimed(took["wall_s"], Output((took["rows"], took["hash"])))


def score_alone(input: Path, model: str, out: Path, threads: int) -> dict[str, Any]:
    """Run the peer; returns its seconds and the digest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    work.booster(model, threads)  # imports
    schema = pa.schema([("row", pa.int64()), ("prediction", pa.float32())])
    out.mkdir()
    began = time.perf_counter()
    score = work.booster(model, threads)
    digests = []
    for file in sorted(input.glob("*.parquet")):
        source = pq.ParquetFile(file)
        with pq.ParquetWriter(out / file.name, schema) as writer:
            for batch in source.iter_batches(BATCH_ROWS, columns=list(work.COLUMNS)):
                scored = score(pa.Table.from_batches([batch]))
                writer.write_table(scored)
                digests.append(work.digest(scored))
    rows, total = work.added(digests)
    return {"wall_s": time.perf_counter() - began, "rows": rows, "hash": total}


def check(job: Job, ours: Output, peers: Mapping[str, Output]) -> str:
    rows = sum(chunk.rows for chunk in job.chunks)
    assert ours.digest[0] == rows, f"{ours.digest[0]} rows of {rows}"
    for name, theirs in peers.items():
        assert theirs.digest == ours.digest, f"rows and digest are {theirs.digest} of {name}, {ours.digest} of ours"
    return f"{rows:,} predictions of each side have the same order-independent digest {ours.digest[1]:016x}"


def details(job: Job, runs: Mapping[str, Sequence[Timed]]) -> dict[str, dict[str, Any]]:
    """Report what the chunks took, the runs with faults, and the speed-ups that are none."""
    rows = sum(chunk.rows for chunk in job.chunks)
    report: dict[str, dict[str, Any]] = {}
    for name, timed in runs.items():
        report[name] = {"rows_per_s": round(rows / statistics.median(run.wall_s for run in timed))}
        if (result := timed[-1].output.result) is not None:
            report[name] |= facts(result)
    expected = runs["ours"][0].output.digest
    report["ours"] |= {"slowed": slowed(job, expected), "killed": killed(job, expected), **claims(job)}
    return report


def facts(result: Result) -> dict[str, Any]:
    """Return latencies of chunks (seconds in their worker), balance, CPU seconds of all workers, and counts."""
    spans = result.spans
    busy = [sum(s.seconds for s in spans if s.worker == worker) for worker in sorted({s.worker for s in spans})]
    latency = {f"chunk_{name}_s": round(value, 4) for name, value in percentiles([s.seconds for s in spans]).items()}
    counts = {name: count for name, count in vars(result.counts).items() if count}
    return {
        **latency,
        "balance": round(balance(busy), 3),
        "workers_cpu_s": round(sum(s.cpu_s for s in spans), 2),
        "counts": counts,
    }


def slowed(job: Job, expected: work.Digest) -> dict[str, Any]:
    """Time each strategy with one worker slowed, in turn; returns medians and what the others gain over uniform."""
    seconds: dict[str, list[float]] = {strategy: [] for strategy in STRATEGIES}
    last: dict[str, Result] = {}
    for number in range(RUNS_SLOWED):
        for strategy in STRATEGIES:
            marker = job.scratch / f"slow-{number}-{strategy}"
            ran = spread(job, strategy, work.slowed, (work.booster, (job.model,), str(marker), SLOWED))
            assert ran.output.digest == expected, f"{strategy} with a slowed worker"
            seconds[strategy].append(ran.wall_s)
            last[strategy] = ran.output.result
    medians = {strategy: statistics.median(took) for strategy, took in seconds.items()}
    gains = {
        strategy: statistics.median(u / s for u, s in zip(seconds["uniform"], took, strict=True))
        for strategy, took in seconds.items()
    }
    return {
        strategy: {
            "median_s": round(medians[strategy], 3),
            "min_s": round(min(seconds[strategy]), 3),
            "max_s": round(max(seconds[strategy]), 3),
            "times_uniform": round(gains[strategy], 3),
            **facts(last[strategy]),
        }
        for strategy in STRATEGIES
    }


def killed(job: Job, expected: work.Digest) -> dict[str, Any]:
    """Kill a worker half way, with each strategy; returns the counts. The digests are the same, or AssertionError."""
    from tasks.parallel import pool

    told: dict[str, Any] = {}
    for strategy in STRATEGIES:
        marker = job.scratch / f"killed-{strategy}"
        at = f"partition:read:{len(job.chunks) // 2}"
        ran = spread(job, strategy, work.killed, (work.booster, (job.model,), at, str(marker)))
        pool.clear()  # their environment names the fault
        assert marker.exists(), f"{strategy}: nobody died"
        assert ran.output.digest == expected, f"{strategy} with a killed worker"
        told[strategy] = {"wall_s": round(ran.wall_s, 3), **facts(ran.output.result)}
    return told


def claims(job: Job) -> dict[str, Any]:
    """Measure what flatters: the first run of new workers, a row at a time, and tables through the driver."""
    cold = spread(job, "dynamic")  # after `killed` no worker is left
    warm = spread(job, "dynamic")
    return {
        "cold_s": round(cold.wall_s, 3),
        "warm_s": round(warm.wall_s, 3),
        "row_at_a_time_rows_per_s": round(row_at_a_time(job)),
        "through_the_driver_s": round(through_the_driver(job), 3),
        "by_reference_s": round(by_reference(job), 3),
    }


def row_at_a_time(job: Job) -> float:
    """Return the rows per second of a loop that predicts one row after the other, in one process."""
    import pyarrow.parquet as pq

    score = work.booster(job.model)
    table = pq.ParquetFile(job.files[0]).read_row_group(0)
    began = time.perf_counter()
    for i in range(ROW_LOOP_ROWS):
        score(table.slice(i, 1))
    return ROW_LOOP_ROWS / (time.perf_counter() - began)


def by_reference(job: Job) -> float:
    """Return the seconds of a run whose rows, features and all, stay in the object store."""
    return _echoed(job, None)


def through_the_driver(job: Job) -> float:
    """Return the seconds of the same run whose rows come back to this process."""
    return _echoed(job, whole)


def _echoed(job: Job, sink: Any) -> float:
    began = time.perf_counter()
    partition.run(
        job.chunks, echoed, (job.model,), strategy="dynamic", workers=job.workers, sink=sink, columns=work.COLUMNS
    )
    return time.perf_counter() - began


def echoed(model: str) -> Score:
    """Make a scorer that returns the features beside the predictions, as frames of a notebook do."""
    score = work.booster(model)
    return lambda table: table.append_column("prediction", score(table)["prediction"])


def whole(_: Chunk, table: Any) -> Any:
    return table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cases.partition", description="The peer alone.")
    parser.add_argument("input", type=Path)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    given = parser.parse_args()
    took = json.dumps(score_alone(given.input, given.model, given.out, given.threads)) + "\n"
    sys.stdout.write(took) if given.json == "-" else Path(given.json).write_text(took)
    return 0


CASE = Case(
    name="partition",
    size_of="rows",
    default_size=600_000,
    prepare=prepare,
    ours=partial(spread, strategy="dynamic"),
    peers={
        "uniform": partial(spread, strategy="uniform"),
        "sharded": partial(spread, strategy="sharded"),
        "one_process": one_process,
    },
    check=check,
    measure_input=measure_input,
    details=details,
    check_is_warm_up=True,
)


if __name__ == "__main__":
    sys.exit(main())
