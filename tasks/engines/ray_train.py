"""XGBoost on Ray Train: workers that read their own rows, boost together and survive the death of any of them.

Rank 0 hands the model to the driver as what the training function returns. Checkpoints are files beside the attempt,
written by rank 0 under their name when they are whole: Ray Train's own way, `report`, blocks every worker until the
controller's next poll. A worker that dies, or the whole process, costs the rounds since the last one.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from tasks.core.digests import digest_of
from tasks.core.errors import RaymillError, RunError, SettingsError, TransientError
from tasks.core.whole_files import write_whole
from tasks.domain import constraints
from tasks.domain.targets import TARGETS
from tasks.engines import boosting, cluster, nodes, ray_private, rounds
from tasks.engines.rounds import Checkpoint, Curves


@dataclass(frozen=True)
class TrainJob:
    """What each worker needs: file names and numbers, no data. `folder` is seen by all of them.

    params: XGBoost's without those of the target. patience: rounds without a better validation loss to stop after.
    threads: of each worker; None for an equal share of its machine's cores.
    """

    train: tuple[Path, ...]
    valid: tuple[Path, ...]
    features: tuple[str, ...]
    target: str
    params: dict[str, Any]
    seed: int
    rounds: int
    folder: Path
    patience: int | None = None
    checkpoint_every: int | None = None
    threads: int | None = None
    external_memory: bool = False
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def identity(self) -> str:
        """What a checkpoint has to be of, but for the rows, which belong to the folder's key."""
        return digest_of([self.features, self.target, self.params, self.seed, self.checkpoint_every, self.device])


@dataclass(frozen=True)
class Trained:
    """A model as UBJ bytes, cut to `rounds`; the losses by slice and round, of all rounds that ran.

    resumed_from: rounds taken from a checkpoint. seconds: "matrix" and "rounds" on rank 0, "start" all the rest.
    """

    model: bytes
    curves: Curves
    rounds: int
    resumed_from: int
    seconds: dict[str, float]


def device(wanted: Literal["cpu", "cuda", "auto"]) -> Literal["cpu", "cuda"]:
    """What to train on. Raises SettingsError for "cuda" where Ray sees no GPU."""
    import ray

    gpus = ray.cluster_resources().get("GPU", 0)
    if wanted == "cuda" and not gpus:
        raise SettingsError(
            "train.device is cuda, and Ray sees no GPU", where="settings", fix="set train.device to auto or cpu"
        )
    return "cuda" if gpus and wanted != "cpu" else "cpu"


def worth_having(job: TrainJob) -> int:
    """Return how many workers to train with: one for each GPU, or for each node that has CPUs.

    Their quantile sketches are merged, so the number decides a model's cuts: what was begun with one goes on with it,
    whatever the cluster has become.
    """
    import ray

    file = job.folder / "workers"
    if not file.exists():
        gpus = int(ray.cluster_resources().get("GPU", 0))
        with_cpus = sum(node["Resources"].get("CPU", 0) > 0 for node in nodes.alive())
        job.folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, str(max(1, gpus if job.device == "cuda" else with_cpus)))
    return int(file.read_text())


def fit(job: TrainJob, workers: int) -> Trained:
    """Train on `workers` Ray Train workers, fewer where there are fewer GPUs than that: XGBoost shares none.

    `job.folder` keeps the checkpoints and is left to the caller.
    """
    with cluster.IMPORTING:
        import ray
        from ray import train
        from ray.exceptions import RayError
        from ray.train.v2.api.exceptions import TrainingFailedError

    started = time.perf_counter()
    resources = {"CPU": 0.5}
    if job.device == "cuda":
        workers, resources = min(workers, int(ray.cluster_resources()["GPU"])), {"CPU": 0.5, "GPU": 1}
    own = job.folder / "ray"
    shutil.rmtree(own, ignore_errors=True)  # Ray Train would take up what it finds under the name
    trainer = ray_private.lean_trainer(own=cluster.is_own())(
        train_loop_per_worker,
        train_loop_config={"job": job},
        scaling_config=train.ScalingConfig(
            num_workers=workers,
            resources_per_worker=resources,
            use_gpu=job.device == "cuda",
            # Ray would pack them onto one node, whose cores they would share.
            placement_strategy="SPREAD",
        ),
        run_config=train.RunConfig(
            name="train", storage_path=str(own), failure_config=train.FailureConfig(max_failures=2)
        ),
    )
    try:
        outcome = trainer.fit().return_value
    except TrainingFailedError as error:
        failures = list(getattr(error, "worker_failures", {}).values())
        reasons = "; ".join(sorted({str(e).strip().splitlines()[-1] for e in failures})) or str(error)
        # What our own code or XGBoost raised will be raised again; a lost worker will not.
        kind = TransientError if any(isinstance(e, RayError) for e in failures) else RunError
        raise kind(f"distributed training failed: {reasons}", where="Ray Train", fix="check train.params") from error
    if isinstance(outcome, RaymillError):
        raise outcome
    if outcome is None:
        raise RunError("training ended without a model", where="Ray Train")
    found: Trained = outcome
    found.seconds["start"] = round(time.perf_counter() - started - sum(found.seconds.values()), 3)
    return found


def train_loop_per_worker(config: dict[str, Any]) -> Trained | RaymillError:
    """One rank: its rows, then the shared rounds.

    What is the user's to mend is returned: Ray Train would start the workers twice more for what is raised.
    """
    from ray import train

    boosting.import_xgboost()
    job: TrainJob = config["job"]
    context = train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    threads = job.threads or max(1, len(os.sched_getaffinity(0)) // context.get_local_world_size())
    boosting.use_threads(threads)
    try:
        rounds.check_params(job.params, TARGETS[job.target], "train.params", job.features)
    except RaymillError as error:
        return error
    with communicator(rank, size):
        return run(job, rank, size, threads)


@contextmanager
def communicator(rank: int, size: int) -> Iterator[None]:
    """XGBoost's all-reduce among the workers, over a tracker in rank 0.

    `ray.train.xgboost` has one in Ray Train's controller, which takes XGBoost's import and memory in a third process.
    """
    if size == 1:
        yield
        return
    import ray
    from ray.train.collective import broadcast_from_rank_zero
    from xgboost.collective import CommunicatorContext
    from xgboost.tracker import RabitTracker

    tracker = None
    if rank == 0:
        tracker = RabitTracker(n_workers=size, host_ip=ray.util.get_node_ip_address(), sortby="task")
        tracker.start()
    arguments = broadcast_from_rank_zero(dict(tracker.worker_args()) if tracker else None)
    # Ranks go by these names, so XGBoost's are Ray Train's.
    with CommunicatorContext(**arguments, dmlc_task_id=f"{rank:08}"):
        yield
    if tracker:
        tracker.wait_for()


def run(job: TrainJob, rank: int, size: int, threads: int) -> Trained | RaymillError:
    """Matrices and rounds of one rank, inside the communicator; the same on every rank but for what rank 0 keeps."""
    started = time.perf_counter()
    max_bin = job.params.get("max_bin")
    rows = {
        name: boosting.Rows(boosting.slabs(files, rank, size), job.features)
        for name, files in (("train", job.train), ("valid", job.valid))
        if files
    }
    matrices: dict[str, Any] = {}
    for name, mine in rows.items():
        cache = job.folder / "cache" / f"{name}-{rank}-{os.getpid()}" if job.external_memory else None
        if cache:
            cache.parent.mkdir(parents=True, exist_ok=True)
        ref = matrices.get("train")
        matrices[name] = boosting.matrix(mine, ref=ref, max_bin=max_bin, threads=threads, cache=cache)
    problem = next((r.problem for r in rows.values() if r.problem), None)
    if told := first_of(problem, rank, size):
        return told
    built = time.perf_counter()

    target = TARGETS[job.target]
    own = constraints.positional(job.params, job.features, "train.params")
    params = {**own, **target.params, "seed": job.seed, "nthread": threads, "device": job.device}
    plan = rounds.Rounds(params, target, job.rounds, job.patience, job.checkpoint_every)
    # Rank 0 alone looks, so that all begin at the same round.
    start = broadcast(read_checkpoint(job.folder, job.identity) if rank == 0 else None, size)

    def save(checkpoint: Checkpoint) -> None:
        if rank == 0:
            write_checkpoint(job.folder, job.identity, checkpoint)

    model, curves, kept = rounds.boost(plan, matrices["train"], matrices.get("valid"), start, save)
    seconds = {"matrix": round(built - started, 3), "rounds": round(time.perf_counter() - built, 3)}
    return Trained(model, curves, kept, start.rounds if start else 0, seconds)


def broadcast(value: Any, size: int, root: int = 0) -> Any:
    from xgboost import collective

    return value if size == 1 else collective.broadcast([value], root)[0]  # it takes no None


def first_of(problem: RaymillError | None, rank: int, size: int) -> RaymillError | None:
    """The problem of the lowest rank that has one, on every rank."""
    if size == 1:
        return problem
    import numpy as np
    from xgboost import collective

    root = int(collective.allreduce(np.array([rank if problem else size]), collective.Op.MIN)[0])
    found: RaymillError | None = broadcast(problem, size, root) if root < size else None
    return found


def write_checkpoint(folder: Path, identity: str, checkpoint: Checkpoint) -> None:
    """A line of JSON, then the model, under their name when they are whole."""
    about = {"identity": identity, "sha256": sha256(checkpoint.model).hexdigest(), "curves": checkpoint.curves}
    write_whole(folder / "checkpoint", json.dumps(about).encode() + b"\n" + checkpoint.model)


def read_checkpoint(folder: Path, identity: str) -> Checkpoint | None:
    """The checkpoint of this job, if there is one that is whole."""
    try:
        first, _, model = (folder / "checkpoint").read_bytes().partition(b"\n")
        about = json.loads(first)
    except (FileNotFoundError, ValueError):
        return None
    whole = (about["identity"], about["sha256"]) == (identity, sha256(model).hexdigest())
    return Checkpoint(model, about["curves"]) if whole else None
