"""A killed training run resumes from its last checkpoint, if that is whole and of the same run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest

from tasks.core.errors import InputError, RankLost, RowsLost, SettingsError, TransientError
from tasks.core.snapshot_files import FileSink
from tasks.core.stage import run_stage
from tasks.core.storage.store import SnapshotStore
from tasks.engines import ray_train, ray_train_worker
from tasks.engines.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from tasks.engines.ray_train import failed
from tasks.engines.train_job import Trained, TrainJob
from tasks.stages.train.stage import device_of, train
from tests.support.stage_runs import made, put, settings


class Killed(BaseException):
    """Stands for the death of the process."""


@pytest.fixture
def job(tmp_path: Path) -> TrainJob:
    rng = np.random.default_rng(0)
    a = rng.normal(size=400).astype(np.float32)
    table = pa.table({"a": a, "label": a + rng.normal(size=400).astype(np.float32)})
    for name, part in (("train", table.slice(0, 300)), ("valid", table.slice(300))):
        FileSink(str(tmp_path)).write_table(f"{name}.parquet", part)
    files = {name: (tmp_path / f"{name}.parquet",) for name in ("train", "valid")}
    params = {"max_depth": 3, "subsample": 0.8}
    return TrainJob(
        **files, features=("a",), target="rating", params=params, seed=7, rounds=10, folder=tmp_path, checkpoint_every=3
    )


def run(job: TrainJob) -> Trained:
    done = ray_train_worker.run(job, 0, 1, 1)
    assert isinstance(done, Trained)
    return done


def kill_after_checkpoint(number: int, job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until the number-th checkpoint is written, and no further."""
    written = []
    write = ray_train_worker.write_checkpoint

    def count(*given: Any) -> None:
        write(*given)
        written.append(given)
        if len(written) == number:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ray_train_worker, "write_checkpoint", count)
        with pytest.raises(Killed):
            run(job)


def test_a_killed_run_goes_on_from_its_last_checkpoint_to_the_same_bytes(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quiet").mkdir()
    quiet = run(replace(job, folder=tmp_path / "quiet"))
    kill_after_checkpoint(2, job, monkeypatch)
    again = run(job)
    assert (quiet.resumed_from, again.resumed_from) == (0, 6)
    assert (again.model, again.curves, again.rounds) == (quiet.model, quiet.curves, quiet.rounds)


def test_a_checkpoint_that_is_cut_off_is_not_used(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_after_checkpoint(1, job, monkeypatch)
    path = job.folder / "checkpoint"
    for cut in (path.read_bytes()[:-1], path.read_bytes()[:20], b""):
        path.write_bytes(cut)
        assert read_checkpoint(job.folder, job.identity) is None
    assert run(job).resumed_from == 0


@pytest.mark.parametrize("change", [{"params": {"max_depth": 4}}, {"seed": 8}, {"target": "positive"}])
def test_a_checkpoint_of_another_run_is_not_used(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    kill_after_checkpoint(1, job, monkeypatch)
    assert read_checkpoint(job.folder, job.identity) is not None
    assert read_checkpoint(job.folder, replace(job, **change).identity) is None


def test_rows_that_cannot_be_learned_from_come_back_as_an_error(job: TrainJob, tmp_path: Path) -> None:
    table = pa.table({"a": pa.array([1.0, float("inf")], pa.float32()), "label": pa.array([1.0, 2.0], pa.float32())})
    FileSink(str(tmp_path)).write_table("valid.parquet", table)
    told = ray_train_worker.run(job, 0, 1, 1)
    assert isinstance(told, InputError)
    assert "feature 'a'" in told.what


def test_checkpoints_stay_until_what_came_of_them_is_committed(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(job: TrainJob, _workers: int) -> Trained:
        write_checkpoint(job.folder, job.identity, Checkpoint(b"half", {"train": [0.5]}))
        return Trained(b"trees", {"train": [0.5, 0.4]}, 2, 0, {})

    def refused(*_: Any) -> dict[str, Any]:
        raise TransientError("a validating process was lost")

    monkeypatch.setattr(ray_train, "fit", fit)
    monkeypatch.setattr(ray_train, "device", lambda _: "cpu")
    rows = pa.table({"a": [0.0, 1.0], "label": pa.array([1.0, 2.0], pa.float32())})
    splits = put(store, "split", {"train": [rows]}, facts={"features": ["a"], "target": "rating"})
    config = settings("train.workers=1", "train.early_stopping_rounds=null").train
    with pytest.raises(TransientError):
        run_stage(train, [splits], config, store, validate=refused)
    (checkpoint,) = store.root.glob("train/*/scratch/checkpoint")
    made(store, train, [splits], config)
    assert not checkpoint.exists()


def test_what_a_worker_said_is_what_the_user_reads() -> None:
    class Failed(Exception):
        worker_failures: ClassVar[dict[int, Exception]] = {}

    lost, gone = RowsLost("10 rows, 9 read", where="text-model", fix="report it"), RankLost("rank 1 is gone")
    Failed.worker_failures = {0: gone, 1: lost}
    assert failed(Failed(), "check train.params") is lost
    Failed.worker_failures = {0: gone}
    assert failed(Failed(), "check train.params") is gone  # which the stage's retry may cure
    Failed.worker_failures = {0: ValueError("in a library\nValueError: no such tree")}
    assert str(failed(Failed(), "check train.params")) == (
        "Ray Train: distributed training failed: ValueError: no such tree\n  → check train.params"
    )


def test_external_memory_is_trained_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """XGBoost 3.2 takes no external memory for a GPU from batches on the CPU."""
    import ray

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 1.0})
    config = settings().train

    def chosen(device: str, external_memory: bool) -> str:
        return device_of(config.model_copy(update={"device": device, "external_memory": external_memory}))

    assert chosen("auto", False) == chosen("cuda", False) == "cuda"
    assert chosen("auto", True) == chosen("cpu", True) == "cpu"
    with pytest.raises(SettingsError, match=r"train.external_memory: external memory is read on"):
        chosen("cuda", True)
