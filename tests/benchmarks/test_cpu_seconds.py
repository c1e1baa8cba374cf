"""CPU seconds by kind of process: nothing that a command starts is left out."""

from __future__ import annotations

import json
import subprocess
import sys

from tasks.core.sections import PROJECT

# In a process of its own: whoever watches is given the orphans from then on.
WATCH = """
import json, subprocess, sys
from dataclasses import asdict
from benchmarks.cpu_seconds import watch
status, wall_s, kinds = watch(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
print(json.dumps({"status": status, "kinds": {name: asdict(kind) for name, kind in kinds.items()}}))
"""
BUSY = "import time\nwhile time.process_time() < 0.5: pass"


def watched(*command: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", WATCH, *command], cwd=PROJECT, capture_output=True, text=True, timeout=500, check=True
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_process_that_outlives_its_parent_is_counted() -> None:
    orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {BUSY!r}]); sys.exit(3)"
    found = watched(sys.executable, "-c", orphan)
    assert found["status"] == 3
    (kind,) = found["kinds"].values()  # type: ignore[attr-defined]
    assert kind["processes"] == 2
    assert kind["cpu_s"] > 0.3
