"""Runs of a script in a process of its own, in which one process dies at a point (tasks/core/faults.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.core.sections import PROJECT


def run_script(
    script: str,
    folder: Path,
    *arguments: str,
    kill_at: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Any:
    """Run Python source with the folder and these arguments; return what it leaves in FOLDER/said.json.

    Not what it prints: Ray reports lost workers on standard output. kill_at: where a process of it dies, once, as its
    workers inherit; it fails unless one does.
    """
    folder.mkdir(exist_ok=True)
    file, marker = folder / "run.py", folder / "was-killed"
    file.write_text(script)
    killing = {"RAYMILL_KILL_AT": kill_at, "RAYMILL_KILL_ONCE": str(marker)} if kill_at else {}
    done = subprocess.run(
        [sys.executable, str(file), str(folder), *arguments],
        env={**environment, "PYTHONPATH": str(PROJECT), **killing},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert marker.exists() == bool(kill_at), "nobody was killed"
    return json.loads((folder / "said.json").read_text())
