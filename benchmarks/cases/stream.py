"""Score rows as they arrive, with the booster of the case `partition`: which rate is held, and which is borne.

In: files of 50 float32 features (benchmarks/scoring_work.py), replayed. Out: a file of predictions per batch. Ours is a
stream in which all rows arrive at once and wait (back-pressure), on warm workers; the peer `batch` is the same rows by
tasks/parallel/partition.py, `dynamic`, on the same number of workers. Equal are the rows and the digest of predictions.

Beside the timed sides, in an open loop (arrivals at fixed times, whatever the service does; latencies from the time at
which a row was due):

    sustained   the highest rate, by bisection, at which p99 is at most 1 s, nothing is lost, and no backlog grows
    held        half of that rate for 60 s: the rate that arrived, the worst second of it, the latencies
    overload    1.5 times that rate for 10 s into a queue of one second: drops are counted, latencies stay bounded

    raymill bench stream [--size ROWS] [--workers W] [--runs R] [--json FILE|-]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import scoring_work as work
from benchmarks.harness import Case, SelfTimed, Setup, Timed
from benchmarks.sides import start_ray
from tasks.parallel import partition, stream
from tasks.parallel.chunks import Chunk, chunks_of
from tasks.parallel.stream import Limits
from tasks.parallel.stream_arrivals import Replay, rows_of
from tasks.parallel.stream_report import Report, highest_rate, is_sustained

CHUNK_ROWS = 16_384  # of `batch`
BATCH_ROWS = 8_192
LIMIT_S = 1.0
TRIAL_S, HELD_S, OVERLOAD_S = 8.0, 60.0, 10.0
WITHIN = 0.04  # of the bisection
AT_ONCE = 1e9  # rows a second: all have arrived before the first is scored
START_S = 1.0  # the arrival times of a minute take a tenth of a second to make


@dataclass(frozen=True)
class Job:
    rows: Any
    chunks: list[Chunk]
    model: str
    workers: int
    scratch: Path


def prepare(setup: Setup) -> Job:
    files, model = work.rows(setup.size), work.model()
    start_ray(setup)
    chunks = chunks_of(files, CHUNK_ROWS, work.COLUMNS)
    return Job(rows_of(files, work.COLUMNS), chunks, model, setup.workers, setup.scratch)


def measure_input(job: Job) -> dict[str, int]:
    return {"bytes": job.rows.nbytes}


def ours(job: Job) -> SelfTimed:
    began = time.perf_counter()
    report, digest = streamed(job, AT_ONCE, job.rows.num_rows / AT_ONCE, start_s=0.0)
    took = time.perf_counter() - began
    assert report.scored == job.rows.num_rows, report.errors
    return SelfTimed(took, digest)


def batch(job: Job) -> SelfTimed:
    with tempfile.TemporaryDirectory(dir=job.scratch) as out:
        began = time.perf_counter()
        sink = partial(work.write_part, out)
        arguments = {"strategy": "dynamic", "workers": job.workers, "sink": sink, "columns": work.COLUMNS}
        result = partition.run(job.chunks, work.booster, (job.model,), **arguments)  # type: ignore[arg-type]
        took = time.perf_counter() - began
    return SelfTimed(took, work.added(result.receipts))


def streamed(
    job: Job, rate: float, seconds: float, *, start_s: float = START_S, **limits: Any
) -> tuple[Report, work.Digest]:
    """Stream rows at a rate; returns the report and the digest of what was scored."""
    digests: list[work.Digest] = []
    given: dict[str, Any] = {"capacity": 1 << 20, "on_full": "wait", **limits}
    with tempfile.TemporaryDirectory(dir=job.scratch) as out:
        crew = stream.crew(work.booster, (job.model,), job.workers, partial(write_batch, out))
        done = False
        try:
            source = Replay(job.rows, rate, seconds, crew.now() + start_s)
            bounds = Limits(batch=BATCH_ROWS, deadline_s=LIMIT_S, **given)
            report = stream.run(source, crew, bounds, lambda _first, _end, receipt: digests.append(receipt))
            done = True
        finally:
            crew.close(done=done)
    return report, work.added(digests)


def write_batch(folder: str, first: int, table: Any) -> work.Digest:
    return work.write_part(folder, Chunk(first, "", 0, 0, table.num_rows, 0), table)


def check(job: Job, ours: work.Digest, peers: Mapping[str, work.Digest]) -> str:
    for name, theirs in peers.items():
        assert theirs == ours, f"rows and digest are {theirs} of {name}, {ours} of ours"
    return f"{ours[0]:,} predictions of each side have the same order-independent digest {ours[1]:016x}"


def details(job: Job, runs: Mapping[str, Sequence[Timed]]) -> dict[str, dict[str, Any]]:
    """Report the highest rate, the rate held for a minute, and what an overload does."""
    rows = job.rows.num_rows
    speeds = {name: rows / statistics.median(run.wall_s for run in timed) for name, timed in runs.items()}
    report: dict[str, dict[str, Any]] = {name: {"rows_per_s": round(speed)} for name, speed in speeds.items()}
    whole = speeds.get("batch", speeds["ours"])
    trials: list[dict[str, Any]] = []

    def is_borne(rate: float) -> bool:
        trial, _ = streamed(job, rate, TRIAL_S, give_up_s=3 * LIMIT_S)
        trials.append({"rate": round(rate), "borne": is_sustained(trial, LIMIT_S), **rounded(trial)})
        return is_sustained(trial, LIMIT_S)

    rate, _ = highest_rate(is_borne, 0.2 * whole, 1.1 * whole, within=WITHIN)
    held, _ = streamed(job, rate / 2, HELD_S)
    over, _ = streamed(job, 1.5 * rate, OVERLOAD_S, on_full="drop", capacity=int(rate))
    report["ours"] |= {
        "sustained": {"rate": round(rate), "share_of_batch": round(rate / whole, 3), "trials": trials},
        "held": {"rate": round(rate / 2), "error": abs(held.arrival_rate / (rate / 2) - 1), **rounded(held)},
        "overload": {"rate": round(1.5 * rate), **rounded(over)},
    }
    return report


def rounded(report: Report) -> dict[str, Any]:
    """Return the report's numbers to four digits."""
    facts = asdict(report)
    facts["errors"] = facts["errors"][:3]
    for name in ("latency", "after_sending"):
        facts[name] = {key: round(value, 4) for key, value in facts[name].items()}
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in facts.items()}


CASE = Case(
    name="stream",
    size_of="rows",
    default_size=300_000,
    prepare=prepare,
    ours=ours,
    peers={"batch": batch},
    check=check,
    measure_input=measure_input,
    details=details,
    check_is_warm_up=True,
)
