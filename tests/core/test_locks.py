"""Who gets a lock, who waits and who is told that it is held."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tasks.core import locks


def test_one_holds_a_lock_and_the_next_is_told_or_comes_after(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locks.locked(path) as first, locks.locked(path, wait=False) as second:
        assert (first, second) == (True, False)
    with locks.locked(path, wait=False) as third:
        assert third


def test_a_shared_lock_is_held_by_many_but_not_beside_the_other_kind(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as one, (tmp_path / "lock").open() as other:
        assert locks.take(one, shared=True)
        assert locks.take(other, wait=False, shared=True)
        assert not locks.take(other, wait=False)
    with locks.locked(tmp_path / "lock"), (tmp_path / "lock").open() as file:
        assert not locks.take(file, wait=False, shared=True)


def test_a_lock_held_alone_is_removed_afterwards_and_what_a_dead_process_left_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "key" / "stage.lock"
    for _ in range(2):
        with locks.alone(path):
            assert locks.is_held(path)
        assert not path.exists()
        assert not locks.is_held(path)
        path.touch()  # as a killed process leaves it


def test_the_next_one_waits_for_the_end_and_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, told = tmp_path / "stage.lock", []
    first = locks.alone(path)
    first.__enter__()
    naps = iter([lambda: None, lambda: None, lambda: first.__exit__(None, None, None)])
    monkeypatch.setattr(locks.time, "sleep", lambda _: next(naps)())
    with locks.alone(path, lambda: told.append(1)):
        assert list(naps) == []
        assert locks.is_held(path)
    assert told == [1]


def test_a_lock_on_a_file_that_its_holder_has_just_removed_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, taken = tmp_path / "stage.lock", []
    take = locks.take

    def removed(file: Any, **how: Any) -> bool:
        if not taken:
            path.unlink()  # between the opening and the lock
        taken.append(os.fstat(file.fileno()).st_ino)
        return take(file, **how)

    monkeypatch.setattr(locks, "take", removed)
    monkeypatch.setattr(locks.time, "sleep", lambda _: None)
    with locks.alone(path):
        assert len(taken) == 2
        assert path.stat().st_ino == taken[-1]


def test_a_lock_file_that_another_has_made_anew_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "stage.lock"
    with locks.alone(path):
        path.rename(tmp_path / "away")  # with its folder, by who cleans up
        path.touch()
    assert path.exists()
