"""One worker of a distributed training: it reads its own rows and boosts together with the others.

Rank 0 also writes checkpoints, atomically, to a file beside the attempt: Ray Train's own `report` blocks every worker
until the controller's next poll. If a worker or the whole process dies, only the rounds since the last checkpoint are
lost.
"""

from __future__ import annotations

import os
import time
from typing import Any

from tasks.core.errors import RaymillError
from tasks.domain import constraints
from tasks.domain.targets import TARGETS
from tasks.engines import boosting, quantile_matrices, rounds
from tasks.engines.boosting_params import check_params
from tasks.engines.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from tasks.engines.feature_files import column, slabs
from tasks.engines.feature_rows import Rows
from tasks.engines.linear_start import Start
from tasks.engines.train_job import Trained, TrainJob
from tasks.engines.xgboost_collective import broadcast, communicator, first_of


def train_loop_per_worker(config: dict[str, Any]) -> Trained | RaymillError:
    """Train as one rank: read its rows, then boost with the other ranks.

    Errors that the user has to fix are returned. If they were raised, Ray Train would start the workers twice more.
    """
    from ray import train

    boosting.import_xgboost()
    job: TrainJob = config["job"]
    context = train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    threads = job.threads or max(1, len(os.sched_getaffinity(0)) // context.get_local_world_size())
    boosting.use_threads(threads)
    try:
        check_params(job.params, TARGETS[job.target], "train.params", job.features)
    except RaymillError as error:
        return error
    with communicator(rank, size, job.device):
        return run(job, rank, size, threads)


def run(job: TrainJob, rank: int, size: int, threads: int) -> Trained | RaymillError:
    """Build one rank's matrices and boost, inside the communicator. Only rank 0 reads and writes checkpoints."""
    started = time.perf_counter()
    max_bin = job.params.get("max_bin")
    rows = {
        name: Rows(slabs(files, rank, size), job.features)
        for name, files in (("train", job.train), ("valid", job.valid))
        if files
    }
    matrices: dict[str, Any] = {}
    for name, mine in rows.items():
        if name == "valid" and job.device == "cpu" and not job.external_memory:
            matrices[name] = quantile_matrices.plain_matrix(mine.walk(), job.features, threads)
            continue
        cache = job.folder / "cache" / f"{name}-{rank}-{os.getpid()}" if job.external_memory else None
        if cache:
            cache.parent.mkdir(parents=True, exist_ok=True)
        ref = matrices.get("train")
        matrices[name] = quantile_matrices.matrix(mine, ref=ref, max_bin=max_bin, threads=threads, cache=cache)
    problem = next((r.problem for r in rows.values() if r.problem), None)
    if first := first_of(problem, rank, size):
        return first
    built = time.perf_counter()

    target = TARGETS[job.target]
    own = constraints.positional(job.params, job.features, "train.params")
    params = {**own, **target.params, "seed": job.seed, "nthread": threads, "device": job.device}
    begin = None
    if job.begin is not None:
        begin = Start(column(rows["train"].slabs, job.begin), job.features.index(job.begin))
    plan = rounds.Rounds(params, target, job.rounds, job.patience, job.checkpoint_every, begin)
    # Only rank 0 reads the checkpoint, so that all ranks begin at the same round.
    start = broadcast(read_checkpoint(job.folder, job.identity) if rank == 0 else None, size)

    def save(checkpoint: Checkpoint) -> None:
        if rank == 0:
            write_checkpoint(job.folder, job.identity, checkpoint)

    model, curves, kept = rounds.boost(plan, matrices["train"], matrices.get("valid"), start, save)
    seconds = {"matrix": round(built - started, 3), "rounds": round(time.perf_counter() - built, 3)}
    return Trained(model, curves, kept, start.rounds if start else 0, seconds)
