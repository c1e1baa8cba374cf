"""Named points at which a test may kill the process, so that faults are deterministic.

    RAYMILL_KILL_AT=clean:before-manifest raymill run …

With the variable unset, `point` costs one dictionary look-up and does nothing.
"""

from __future__ import annotations

import os
import signal

POINTS = ("before-run", "after-run", "after-validate", "before-manifest", "after-manifest")


def point(stage: str, name: str) -> None:
    """Die by SIGKILL here if RAYMILL_KILL_AT names this stage and point."""
    if os.environ.get("RAYMILL_KILL_AT") == f"{stage}:{name}":
        os.kill(os.getpid(), signal.SIGKILL)
