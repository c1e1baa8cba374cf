"""Named points at which a test may kill the process, so that faults are deterministic.

    RAYMILL_KILL_AT=clean:before-manifest raymill run …
    RAYMILL_KILL_AT=mapreduce:mapped:3 RAYMILL_KILL_ONCE=/tmp/killed raymill run …

Actors have points too, with the number of their current input. RAYMILL_KILL_ONCE names a file that must not exist: the
process that dies creates it, so that its replacement survives. With RAYMILL_KILL_AT unset, `point` costs one dictionary
look-up and does nothing.
"""

from __future__ import annotations

import os
import signal

POINTS = ("before-run", "after-run", "after-validate", "before-manifest", "after-manifest")


def point(stage: str, name: str, index: int | None = None) -> None:
    """Die by SIGKILL here if RAYMILL_KILL_AT names this stage, point and (optional) index."""
    kill_at = os.environ.get("RAYMILL_KILL_AT")
    if kill_at is None or kill_at != ":".join([stage, name, *([] if index is None else [str(index)])]):
        return
    if marker := os.environ.get("RAYMILL_KILL_ONCE"):
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
    os.kill(os.getpid(), signal.SIGKILL)
