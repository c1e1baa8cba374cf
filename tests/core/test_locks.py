"""Who gets a lock, who waits and who is told that it is held."""

from __future__ import annotations

from pathlib import Path

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
