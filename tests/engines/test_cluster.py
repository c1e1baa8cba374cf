"""The local Ray session."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tasks.engines import cluster

LOOK = """
import psutil
import ray  # before `cluster` can set what Ray reads at its import, as a program may
from tasks.settings import load_settings
from tasks.engines import cluster

cluster.start(load_settings(overrides=["ray.object_store_mb=100"]).ray)
for process in psutil.Process().children(recursive=True):
    for connection in process.net_connections(kind="inet"):
        if connection.status == psutil.CONN_LISTEN:
            print(process.name(), connection.laddr.ip)
"""


@pytest.mark.slow
def test_a_local_session_listens_on_loopback_alone() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    listening = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
    assert {"raylet", "gcs_server"} <= {name for name, _ in listening}
    assert [(n, ip) for n, ip in listening if ip.removeprefix("::ffff:") not in ("127.0.0.1", "::1")] == []


def test_a_worker_that_ray_killed_for_its_memory_is_a_lost_one() -> None:
    from ray import exceptions

    assert cluster.is_lost(exceptions.OutOfMemoryError("a worker used too much"))
    assert not cluster.is_lost(ValueError("a bad value"))
