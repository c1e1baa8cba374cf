"""`raymill gc` beside runs at work, and what it finds of stages that were never finished."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from flows.cli.snapshots import DAY_S, plan_gc, remove
from flows.run.at_work import FILE, at_work, nobody_at_work
from tasks.core import locks
from tasks.core.snapshots import SnapshotWriter
from tasks.core.storage.store import LOCK, SnapshotStore
from tasks.settings import Settings, load_settings
from tests.support.command import raymill
from tests.support.toy_snapshots import assert_whole, fill, left, made


def words(root: Path) -> list[str]:
    return [f"storage.root={root}", "storage.keep_runs=1", f"tracking.uri=sqlite:///{root}/none.db"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(overrides=words(tmp_path))


@pytest.fixture
def own(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "snapshots")


def unfinished(store: SnapshotStore, key: str, days: float) -> SnapshotWriter:
    """Leave what a stage resumes from that failed so many days ago."""
    out = fill(store.open_attempt("train", key))
    (out.scratch / "ray").mkdir()
    (out.scratch / "ray" / "checkpoint").write_bytes(b"x" * 100)
    store.discard(out)
    when = time.time() - days * DAY_S
    for path in (out.scratch / "ray" / "checkpoint", out.scratch / "ray", out.scratch):
        os.utime(path, (when, when))
    return out


def test_runs_are_at_work_together_and_gc_alone(tmp_path: Path) -> None:
    root = tmp_path / "data"
    with nobody_at_work(root) as idle:
        assert idle
    with at_work(root) as first, at_work(root) as second, nobody_at_work(root) as idle:
        assert (first, second, idle) == (True, False, False)
    with nobody_at_work(root) as idle, (root / FILE).open() as file:
        assert idle
        assert not locks.take(file, wait=False, shared=True)
    with at_work(root) as again:
        assert again


def test_snapshots_stay_while_a_run_is_at_work_and_dead_attempts_go(tmp_path: Path, own: SnapshotStore) -> None:
    snapshot = made(own, "new")  # which no record names yet
    (orphan := Path(snapshot.folder) / "attempt-dead").mkdir()
    command = ["gc", *(word for given in words(tmp_path) for word in ("--set", given))]
    with at_work(tmp_path):
        done = raymill(*command)
    assert f"a run is at work in {tmp_path}" in done.stdout
    assert not orphan.exists()
    assert_whole(snapshot)
    assert "superseded" in raymill(*command).stdout
    assert list(own) == []


def test_what_a_stage_left_that_nobody_went_on_with_for_a_day_goes(own: SnapshotStore, settings: Settings) -> None:
    old, young = unfinished(own, "old", 1.1), unfinished(own, "young", 0.9)
    (removal,) = plan_gc(settings)
    assert (removal.path, removal.size) == (old.folder / "scratch", 100)
    remove(removal)
    assert not old.folder.exists()
    assert (young.scratch / "ray" / "checkpoint").exists()


def test_what_is_left_beside_a_snapshot_goes_at_once(own: SnapshotStore, settings: Settings) -> None:
    snapshot = made(own, "done")
    (own.root.parent / "runs").mkdir()
    row = {"stage": "toy", "key": snapshot.key}
    (own.root.parent / "runs" / "1.json").write_text(json.dumps({"run_id": "1", "stages": [row]}))
    folder = Path(snapshot.folder)
    (folder / "scratch").mkdir()
    (folder / LOCK).touch()
    (removal,) = plan_gc(settings)
    remove(removal)
    assert left(folder) == {"manifest.json"}


def test_what_a_stage_at_work_goes_on_with_stays(own: SnapshotStore, settings: Settings) -> None:
    out = unfinished(own, "old", 2)
    (removal,) = plan_gc(settings)
    with locks.alone(own.lock("train", "old")):  # since it was found
        assert plan_gc(settings) == []
        remove(removal)
    assert (out.scratch / "ray" / "checkpoint").exists()
