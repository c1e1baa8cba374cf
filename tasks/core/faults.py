"""Named points at which a test or `raymill drill` lets a fault happen, so that faults are deterministic.

    RAYMILL_KILL_AT=clean:before-manifest raymill run …
    RAYMILL_KILL_AT=mapreduce:mapped:3 RAYMILL_KILL_ONCE=/tmp/killed raymill run …
    RAYMILL_KILL_AT=files:written RAYMILL_FAULT=ENOSPC raymill run …

Actors have points too, with the number of their current input; `files:written` is in every process that writes a data
file. RAYMILL_KILL_ONCE names a file that must not exist: the process at the point creates it, with its id, so that its
replacement survives. RAYMILL_FAULT names a signal that the process sends itself (default: SIGKILL; SIGSTOP lets an
observer break something else and go on by SIGCONT), or an error of the operating system that is raised. With
RAYMILL_KILL_AT unset, `point` costs one dictionary look-up and does nothing.
"""

from __future__ import annotations

import errno
import os
import signal

POINTS = ("before-run", "after-run", "after-validate", "before-manifest", "after-manifest")


def point(stage: str, name: str, index: int | None = None) -> None:
    """Let the fault happen here if RAYMILL_KILL_AT names this stage, point and (optional) index."""
    kill_at = os.environ.get("RAYMILL_KILL_AT")
    if kill_at is None or kill_at != ":".join([stage, name, *([] if index is None else [str(index)])]):
        return
    if marker := os.environ.get("RAYMILL_KILL_ONCE"):
        try:
            with open(marker, "x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            return
    fault = os.environ.get("RAYMILL_FAULT", "SIGKILL")
    if fault.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[fault])
    else:
        number = getattr(errno, fault)
        raise OSError(number, os.strerror(number))
