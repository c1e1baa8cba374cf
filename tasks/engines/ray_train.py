"""Train XGBoost on Ray Train, seen from the driver: on which device, with how many workers, and what comes of it.

The workers (`tasks.engines.ray_train_worker`) read their own rows, boost together and survive the death of any of them.
The training function of rank 0 returns the model to the driver.
"""

from __future__ import annotations

import shutil
import time
from typing import Literal

from tasks.core.errors import RaymillError, RunError, SettingsError, TransientError
from tasks.core.whole_files import write_whole
from tasks.engines import cluster, nodes, ray_private
from tasks.engines.ray_train_worker import train_loop_per_worker
from tasks.engines.train_job import Trained, TrainJob


def device(wanted: Literal["cpu", "cuda", "auto"], setting: str = "train.device") -> Literal["cpu", "cuda"]:
    """Return the device to train on. Raises SettingsError if "cuda" is wanted by `setting` and Ray sees no GPU."""
    import ray

    gpus = ray.cluster_resources().get("GPU", 0)
    if wanted == "cuda" and not gpus:
        raise SettingsError(
            f"{setting} is cuda, but Ray sees no GPU", where="settings", fix=f"set {setting} to auto or cpu"
        )
    return "cuda" if gpus and wanted != "cpu" else "cpu"


def worth_having(job: TrainJob) -> int:
    """Return how many workers to train with: one for each GPU, or for each node that has CPUs.

    XGBoost merges the workers' quantile sketches, so their number changes the model's cuts. A training is therefore
    resumed with the number that it began with, even if the cluster has changed.
    """
    import ray

    file = job.folder / "workers"
    if not file.exists():
        gpus = int(ray.cluster_resources().get("GPU", 0))
        with_cpus = sum(node["Resources"].get("CPU", 0) > 0 for node in nodes.alive())
        job.folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, str(max(1, gpus if job.device == "cuda" else with_cpus)), synced=True)
    return int(file.read_text())


def fit(job: TrainJob, workers: int) -> Trained:
    """Train on `workers` Ray Train workers; on GPUs, on at most one per GPU, as XGBoost cannot share a GPU.

    The checkpoints stay in `job.folder`: what comes of the training is not committed yet.
    """
    with cluster.IMPORTING:
        import ray
        from ray import train
        from ray.train.v2.api.exceptions import TrainingFailedError

    started = time.perf_counter()
    resources = {"CPU": 0.5}
    if job.device == "cuda":
        device("cuda")  # or the error that there is none
        workers = min(workers, int(ray.cluster_resources()["GPU"]))
        resources = {"CPU": min(0.5, cluster.cpus() / (2 * workers)), "GPU": 1}
    own = job.folder / "ray"
    shutil.rmtree(own, ignore_errors=True)  # Ray Train would resume a run of the same name
    trainer = ray_private.lean_trainer(own=cluster.is_own())(
        train_loop_per_worker,
        train_loop_config={"job": job},
        scaling_config=train.ScalingConfig(
            num_workers=workers,
            resources_per_worker=resources,
            use_gpu=job.device == "cuda",
            # By default Ray packs the workers onto one node, whose cores they would share.
            placement_strategy="SPREAD",
        ),
        run_config=train.RunConfig(
            name="train", storage_path=str(own), failure_config=train.FailureConfig(max_failures=2)
        ),
    )
    try:
        outcome = trainer.fit().return_value
    except TrainingFailedError as error:
        raise failed(error, "check train.params") from error
    if isinstance(outcome, RaymillError):
        raise outcome
    if outcome is None:
        raise RunError("training ended without a model", where="Ray Train")
    trained: Trained = outcome
    trained.seconds["start"] = round(time.perf_counter() - started - sum(trained.seconds.values()), 3)
    return trained


def failed(error: Exception, fix: str) -> RaymillError:
    """Translate Ray Train's TrainingFailedError: what its workers said, and whether a retry may help.

    An error of our own is returned as it was raised, first of all one that a retry would meet again. Of the others a
    retry would meet again what a library says, but not the loss of a worker.
    """
    from ray.exceptions import RayError

    failures = list(getattr(error, "worker_failures", {}).values())
    causes = [getattr(failure, "_base_exc", failure) for failure in failures]  # without the worker's traceback
    own = [cause for cause in causes if isinstance(cause, RaymillError)]
    if own:
        return min(own, key=lambda cause: isinstance(cause, TransientError))
    reasons = "; ".join(sorted({str(e).strip().splitlines()[-1] for e in failures})) or str(error)
    kind = TransientError if any(isinstance(e, RayError) for e in failures) else RunError
    return kind(f"distributed training failed: {reasons}", where="Ray Train", fix=fix)
