"""Runs and `raymill gc` keep out of each other's way, by a lock on `storage.root/at-work.lock`.

Runs share the lock; `raymill gc` wants it alone, as it would remove what a run has just made or begun to reuse. The
kernel releases the lock of a dead process.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.core import locks

FILE = "at-work.lock"
_LOG = logging.getLogger(__name__)


@contextmanager
def at_work(root: Path) -> Iterator[bool]:
    """Mark a run as at work while the block runs, after `raymill gc`; yield whether no other run was when it began."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / FILE).open("ab") as file:
        first = locks.take(file, wait=False)
        if not locks.take(file, wait=False, shared=True):
            _LOG.warning("raymill gc is at work in %s: waiting for its end", root)
            locks.take(file, shared=True)
        yield first


@contextmanager
def nobody_at_work(root: Path) -> Iterator[bool]:
    """Keep runs from beginning while the block runs; yield False, without doing so, if one is at work."""
    if not root.exists():
        yield True
        return
    with locks.locked(root / FILE, wait=False) as idle:
        yield idle
