"""Locks on files, which keep other processes out.

The kernel releases the lock of a process that dies, however it dies; NFS keeps locks across machines.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

POLL_S = 0.1


def take(file: IO[Any], *, wait: bool = True, shared: bool = False) -> bool:
    """Lock an open file until it is closed. With wait=False return False if another process holds it.

    Any number of processes may hold a shared lock at once, if none holds the other kind. It looks again each POLL_S:
    one that waits in the kernel gets no Ctrl-C once Polars is imported (its handler lets the wait begin again).
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if not wait:
                return False
        time.sleep(POLL_S)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file while the block runs. With wait=False yield False, without it, if another process holds it."""
    with path.open("ab") as file:
        yield take(file, wait=wait)


def is_held(path: Path) -> bool:
    """Return whether another process (or another open file of this one) holds a lock file, which need not exist."""
    try:
        with path.open("rb+") as file:
            return not take(file, wait=False)
    except FileNotFoundError:
        return False


@contextmanager
def alone(path: Path, waiting: Callable[[], None] = lambda: None, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file while the block runs, and remove it afterwards; call `waiting`, once, if another holds it.

    With wait=False yield False, without the lock, if another holds it.
    """
    if (file := _taken(path)) is None and wait:
        waiting()
    while file is None and wait:
        time.sleep(POLL_S)
        file = _taken(path)
    if file is None:
        yield False
        return
    with file:
        try:
            yield True
        finally:
            if _is_at(file, path):
                path.unlink()


def _taken(path: Path) -> IO[bytes] | None:
    """Return the lock file, open and locked; None if another holds it, or has just removed it with its lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = path.open("ab")
    except FileNotFoundError:  # the folder was removed
        return None
    if take(file, wait=False) and _is_at(file, path):
        return file
    file.close()
    return None


def _is_at(file: IO[Any], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
