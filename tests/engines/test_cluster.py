"""The local Ray session."""

from __future__ import annotations

from contextlib import suppress

import psutil

from tasks.engines import cluster


def test_a_local_session_listens_on_loopback_alone(ray_session: None) -> None:
    listening = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            connections = process.net_connections(kind="inet")
            listening |= {(process.name(), c.laddr.ip) for c in connections if c.status == psutil.CONN_LISTEN}
    assert {"raylet", "gcs_server"} <= {name for name, _ in listening}
    assert [(n, ip) for n, ip in listening if ip.removeprefix("::ffff:") not in ("127.0.0.1", "::1")] == []


def test_a_worker_that_ray_killed_for_its_memory_is_a_lost_one() -> None:
    from ray import exceptions

    assert cluster.is_lost(exceptions.OutOfMemoryError("a worker used too much"))
    assert not cluster.is_lost(ValueError("a bad value"))
