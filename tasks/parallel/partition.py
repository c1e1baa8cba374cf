"""Partitioned scoring: chunks of parquet spread over Ray workers by one of three strategies, with the same results.

    chunks = chunks_of(files, rows=20_000, columns=COLUMNS)
    result = partition.run(chunks, load_scorer, (model_path,), strategy="dynamic", workers=2, columns=COLUMNS,
                           sink=partial(write_part, FileSink(root)))
    result.receipts[i]      # what sink(chunks[i], table) returned, such as a FileEntry

`load_scorer(model_path)` runs once in each worker, and returns `score(rows: pa.Table) -> pa.Table`. Factory, arguments
and sink travel to each worker, so they name files and hold no arrays. The worker reads a chunk, scores it and sinks
what comes out; without a sink the table stays in Ray's object store and its receipt is a reference. This process sees
chunks and receipts, never a table. Ray must be up (`cluster.start`).

A strategy decides who gets what (`partition_plan`): `uniform` fixes equal shares in advance, and is as slow as its
slowest worker; `dynamic` lets workers pull, steal and repeat a straggler's last chunks; `sharded` packs shards of equal
bytes, each of which a worker reads at once. Each chunk is scored by the same call alone, whatever the strategy.

A chunk may be scored twice: after a failure, a death, or by speculation, when both may write at the same time. So a
sink writes atomically under a name made from the chunk (as `FileSink` does), and the same rows give the same bytes.
Each chunk has one receipt in the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.core.errors import ChunkFailed
from tasks.parallel.chunks import Chunk
from tasks.parallel.crew import RayCrew
from tasks.parallel.partition_master import Counts, Master, Poison, Span, Trouble
from tasks.parallel.partition_plan import Strategy, plan_of
from tasks.parallel.partition_worker import Make, Sink, Worker


@dataclass(frozen=True)
class Result:
    """receipts: by chunk, None for those set aside. set_aside: these, with the reason. spans: in order of time."""

    receipts: list[Any]
    set_aside: list[Trouble]
    spans: list[Span]
    counts: Counts
    seconds: float


def run(
    chunks: Sequence[Chunk],
    make: Make,
    arguments: Sequence[Any] = (),
    *,
    strategy: Strategy,
    workers: int,
    sink: Sink | None = None,
    columns: Sequence[str] | None = None,
    tries: int = 3,
    poison: Poison = "raise",
    shard_bytes: int = 256 << 20,
    patience_s: float = 600.0,
    on_settled: Callable[[Chunk], None] | None = None,
) -> Result:
    """Score all chunks on `workers` Ray workers.

    columns: those that `score` needs, all if not given. tries: how often a chunk may fail, on different workers where
    there are as many. poison: what becomes of one that did. shard_bytes: the most that a worker of `sharded` reads at
    once. patience_s: how long a worker may be at one unit before it is replaced. on_settled is called in this process,
    once per chunk.

    Raises ChunkFailed for a chunk that had its tries, TransientError if workers keep dying, InputError for a chunk that
    is larger than a shard, ValueError if what travels to the workers is not small.
    """
    count = max(1, min(workers, len(chunks)))
    plan = plan_of(strategy, chunks, count, shard_bytes)
    references: Callable[[Any], int] = len if sink is None else lambda _: 0
    crew = RayCrew(Worker, (make, arguments, sink, columns), count, references)
    done = False
    try:
        master = Master(chunks, plan, crew, tries=tries, poison=poison, patience_s=patience_s, on_settled=on_settled)
        master.run()
        done = True
    finally:
        crew.close(done=done)
    return _result(chunks, master)


def run_in_process(
    chunks: Sequence[Chunk],
    make: Make,
    arguments: Sequence[Any] = (),
    *,
    sink: Sink | None = None,
    columns: Sequence[str] | None = None,
) -> list[Any]:
    """Score all chunks here, one after the other, without Ray; returns receipts or tables. The tests' oracle.

    Raises ChunkFailed for the first that fails.
    """
    worker = Worker(make, arguments, sink, columns)
    receipts = []
    for chunk in chunks:
        answer = worker.work((chunk,))
        (done,), scored = (answer, None) if sink else answer
        if done.error is not None:
            raise ChunkFailed(done.error, where=str(chunk), fix="look at these rows")
        receipts.append(done.receipt if sink else scored)
    return receipts


def _result(chunks: Sequence[Chunk], master: Master) -> Result:
    return Result(
        receipts=[master.receipts.get(chunk.index) for chunk in chunks],
        set_aside=[master.set_aside[i] for i in sorted(master.set_aside)],
        spans=master.spans,
        counts=master.counts,
        seconds=master.crew.now() - master.began,
    )
