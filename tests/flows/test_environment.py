"""The environment of a process: what must be set before a library is imported."""

from __future__ import annotations

import subprocess
import sys

from tasks.core.sections import PROJECT

CHECK = """
from flows.run import environment
environment.prepare()
from ray._private import ray_constants
print(ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV)
"""


def test_ray_starts_no_workers_by_uv() -> None:
    done = subprocess.run([sys.executable, "-c", CHECK], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
