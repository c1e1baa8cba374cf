"""Faults of the machine as errors for users: a full disk, a read-only one, too few file handles; and a Prefect server
that does not answer."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from typing import Any

from tasks.core.errors import RunError, TransientError

AGAIN = "then start the run again: it goes on after the last finished stage"
SPACE = ("no space is left on the disk", f"free some (raymill gc frees what nothing refers to), {AGAIN}")
HANDLES = ("too many files are open", f"raise the limit (ulimit -n 4096), {AGAIN}")
FAULTS = {
    errno.ENOSPC: SPACE,
    errno.EDQUOT: SPACE,
    errno.EROFS: ("the file system is read-only", f"mount it for writing, or change storage.root, {AGAIN}"),
    errno.EIO: ("the disk cannot be read or written", f"check it (dmesg), or change storage.root, {AGAIN}"),
    errno.EMFILE: HANDLES,
    errno.ENFILE: HANDLES,
}


def as_run_error(error: BaseException) -> RunError | None:
    """Return an error that says what is wrong with the machine, where an error of the system, here or in a worker, is
    the cause; else None."""
    for one in _causes(error):
        number = getattr(one, "errno", None)
        if isinstance(one, OSError) and number in FAULTS:
            what, fix = FAULTS[number]
            return RunError(what, where=str(getattr(one, "filename", None) or ""), fix=fix)
    return None


def prefect_fault(error: BaseException) -> TransientError | None:
    """Return an error that says so, where a request to Prefect's server that failed is the cause; else None."""
    api = os.environ.get("PREFECT_API_URL")
    if not api or (httpx := sys.modules.get("httpx")) is None:
        return None
    for one in _causes(error):
        if isinstance(one, httpx.TransportError) and _asked(one).startswith(api):
            return TransientError(
                f"Prefect's server does not answer: {type(one).__name__}", where=api, fix=f"see its log, {AGAIN}"
            )
    return None


def _asked(error: Any) -> str:
    try:
        return str(error.request.url)
    except RuntimeError:  # an error without its request
        return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it comes from; Ray's errors keep the worker's as `cause`."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        cause = getattr(error, "cause", None)
        error = cause if isinstance(cause, BaseException) else error.__cause__ or error.__context__
