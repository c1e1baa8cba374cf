"""Run a training function on Ray Train's `TorchTrainer`: ranks in torch's process group, each with its own rows.

Two of the trainer's public parts are replaced, as those that it comes with break promises made here:

- `StridedShards` for the split of Ray Data sets. Ray's own hands blocks to the rank that asks first, and drops rows so
  that all ranks get the same number. Here rank r of W gets rows r, r + W, ... of all files: always the same, none lost
  and none twice.
- `NodeAddress` for the process group. Ray's own listens on every interface (torch's store) and on that of the host's
  name (gloo). Here both take the node's address in Ray, which is loopback in a session on loopback.

Imports torch (the extra `deep`), so a stage imports this module only when it runs.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import ray
from ray import train
from ray.train.backend import Backend
from ray.train.torch import TorchConfig
from ray.train.v2.api.exceptions import TrainingFailedError

from tasks.core import errors
from tasks.core.errors import RaymillError
from tasks.core.whole_files import write_whole
from tasks.engines import cluster, ray_private, ray_train
from tasks.engines.nodes import interface_of
from tasks.engines.ray_train import failed

POLL_S = 0.5  # between two looks at the progress
READ_CPUS = 0.5  # of a task that reads a file
PATIENCE_S = 600  # of a rank that waits for the others in a collective
LEAVE_S = 30
FAILURES = 2  # of the group of workers; each time it starts again from its checkpoint
END_S = 30  # for a training to end that is interrupted
DATA = "rows"
TOLD = "error.json"  # what ended the group before


@dataclass(frozen=True)
class Job:
    """What runs: `work` on each of `workers` ranks, with `config`; its result on rank 0 is the job's.

    files: a record for each file of rows, which `read` turns into a table of the rows of a rank: read(batch of one
    record, rank=, world_size=, **read_with). folder: for Ray Train's own files; all nodes see it. watch: called every
    POLL_S in the caller's thread.
    """

    work: Callable[[dict[str, Any]], Any]
    config: dict[str, Any]
    files: Sequence[dict[str, Any]]
    read: Callable[..., Any]
    read_with: dict[str, Any]
    workers: int
    device: str
    folder: Path
    watch: Callable[[], None]
    fix: str = ""


class StridedShards(train.DataConfig):
    """Gives rank r of W the rows r, r + W, ...: each rank's part is read from the files by tasks of its own."""

    def __init__(self, read: Callable[..., Any], read_with: dict[str, Any]) -> None:
        super().__init__()
        self.read, self.read_with = read, read_with

    def configure(self, datasets: dict[str, Any], world_size: int, *_: Any, **__: Any) -> list[dict[str, Any]]:
        return [
            {name: self._part(files, rank, world_size).iterator() for name, files in datasets.items()}
            for rank in range(world_size)
        ]

    def _part(self, files: Any, rank: int, world_size: int) -> Any:
        given = {**self.read_with, "rank": rank, "world_size": world_size}
        return files.map_batches(self.read, fn_kwargs=given, batch_size=1, num_cpus=READ_CPUS)


@dataclass
class NodeAddress(TorchConfig):
    """A process group on the nodes' addresses in Ray, and on no other interface."""

    @property
    def backend_cls(self) -> Any:
        return NodeAddressBackend


class NodeAddressBackend(Backend):
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        address = worker_group.execute_single(0, listen)
        size = len(worker_group)
        joining = [
            worker_group.execute_single_async(rank, join, rank, size, address, backend_config.backend)
            for rank in range(size)
        ]
        ray.get(joining)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        # NCCL waits for the others, which may wait for a rank that failed. Ray ends the workers next.
        with suppress(ray.exceptions.GetTimeoutError):
            ray.get(worker_group.execute_async(leave), timeout=LEAVE_S)


_LISTENER: list[socket.socket] = []  # of rank 0, until it joins


def listen() -> tuple[str, int]:
    """Open the socket of torch's store on this node's address."""
    host = ray.util.get_node_ip_address()
    _LISTENER[:] = [socket.create_server((host, 0), backlog=128)]
    return host, _LISTENER[0].getsockname()[1]


def join(rank: int, size: int, address: tuple[str, int], backend: str) -> None:
    """Join torch's process group."""
    import torch
    from ray.train.torch import get_device
    from torch import distributed

    interface = interface_of(ray.util.get_node_ip_address())
    os.environ.update(GLOO_SOCKET_IFNAME=interface, NCCL_SOCKET_IFNAME=interface)
    if backend == "nccl":  # every rank sees all GPUs of its node
        torch.cuda.set_device(get_device())
    patience = timedelta(seconds=PATIENCE_S)
    more = {"master_listen_fd": _LISTENER.pop().detach()} if rank == 0 else {}
    store = distributed.TCPStore(*address, size, rank == 0, patience, False, **more)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)


def leave() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def device(wanted: Literal["cpu", "cuda", "auto"], setting: str) -> Literal["cpu", "cuda"]:
    """Return the device to train on: a GPU where Ray has one and torch is built for it.

    Raises SettingsError if "cuda" is wanted by `setting` and cannot be.
    """
    found = ray_train.device(wanted, setting)
    if found == "cuda":
        import torch

        if torch.version.cuda is None:
            if wanted == "cuda":
                what = f"{setting} is cuda, and this torch is built for CPUs"
                raise errors.SettingsError(what, where="settings", fix="torch's build for your CUDA version, or cpu")
            return "cpu"
    return found


def rows_of(own_session: bool) -> Any:
    """Return the rows of this rank, in a worker: an iterator of Arrow tables, in any order."""
    if own_session:
        ray_private.lean_data()
    return train.get_dataset_shard(DATA).iter_batches(batch_size=None, batch_format="pyarrow")


def work_once(given: dict[str, Any]) -> Any:
    """Do a rank's work. An error that another try would meet again, and all ranks alike, is returned instead of raised.

    One that a rank meets alone ends the group; the ranks that Ray Train then starts only say it.
    """
    told: Path = given["told"]
    if told.exists():
        return errors.RunError(**json.loads(told.read_text()))
    try:
        return given["work"](given["config"])
    except errors.UserError as error:
        return error
    except errors.TransientError:
        raise
    except RaymillError as error:
        write_whole(told, json.dumps({"what": error.what, "where": error.where, "fix": error.fix}))
        raise


def run(job: Job) -> Any:
    """Run a job to its end; a worker that dies is replaced FAILURES times, and `work` starts again on all ranks.

    Raises the errors of `work` as it raised them, TransientError for lost workers, RunError for other failures.
    """
    ray.data.DataContext.get_current().enable_progress_bars = False
    own = job.folder / "ray"
    shutil.rmtree(own, ignore_errors=True)  # Ray Train would resume a run of the same name
    own.with_name(TOLD).unlink(missing_ok=True)
    on_gpu = job.device == "cuda"
    # At most half of the CPUs, or nothing would be left for the tasks that read the rows (ray#44687).
    cpus = min(0.5, cluster.cpus() / (2 * job.workers))
    trainer = ray_private.lean_trainer(own=cluster.is_own(), torch=True)(
        work_once,
        train_loop_config={"work": job.work, "config": job.config, "told": own.with_name(TOLD)},
        torch_config=NodeAddress(backend="nccl" if on_gpu else "gloo"),
        scaling_config=train.ScalingConfig(
            num_workers=job.workers,
            use_gpu=on_gpu,
            resources_per_worker={"CPU": cpus, **({"GPU": 1} if on_gpu else {})},
            placement_strategy="SPREAD",
        ),
        run_config=train.RunConfig(
            name="train", storage_path=str(own), failure_config=train.FailureConfig(max_failures=FAILURES)
        ),
        datasets={DATA: ray.data.from_items(list(job.files), override_num_blocks=len(job.files))},
        dataset_config=StridedShards(job.read, job.read_with),
    )
    try:
        outcome = _watched(trainer.fit, job.watch).return_value
    except TrainingFailedError as error:
        raise failed(error, job.fix) from error
    if isinstance(outcome, RaymillError):
        raise outcome
    return outcome


def _watched(call: Callable[[], Any], watch: Callable[[], None]) -> Any:
    """Call in a thread, and watch in this one, as a stage reports its progress in its own."""
    outcome: list[Any] = []
    context = copy_context()

    def fit() -> None:
        try:
            outcome.extend([True, context.run(call)])
        except BaseException as error:
            outcome.extend([False, error])

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL_S)
            watch()
    except BaseException:  # an interrupt, say: the training must not go on behind it
        ray_private.end_trainings()
        thread.join(END_S)
        raise
    good, result = outcome
    if not good:
        raise result
    return result
