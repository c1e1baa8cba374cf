"""Locks on files, which keep other processes out.

The kernel releases the lock of a process that dies, however it dies; NFS keeps locks across machines.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def take(file: IO[Any], *, wait: bool = True, shared: bool = False) -> bool:
    """Lock an open file until it is closed. With wait=False return False if another process holds it.

    Any number of processes may hold a shared lock at once, if none holds the other kind.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file while the block runs. With wait=False yield False, without it, if another process holds it."""
    with path.open("ab") as file:
        yield take(file, wait=wait)
