"""Fixtures for stores whose home is a bucket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.core.storage.bucket import Bucket
from tasks.core.storage.mirror import MirroredStore
from tests.support.s3_server import S3Server, s3_server, set_credentials


@pytest.fixture(scope="package")
def server() -> Iterator[S3Server]:
    """An S3 server of this process."""
    with s3_server() as server:
        yield server


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys for it, and none of the machine's own."""
    set_credentials(monkeypatch)


@pytest.fixture
def bucket(server: S3Server, credentials: None, tmp_path: Path) -> Bucket:
    """An empty bucket of the test's own."""
    name = f"b{abs(hash(tmp_path)):x}"
    server.make(name)
    return Bucket(server.url(name, "deep/home"))


@pytest.fixture
def machine(bucket: Bucket, tmp_path: Path) -> Callable[[str], MirroredStore]:
    """Stores of several machines, by name, with one home."""
    return lambda name: MirroredStore(tmp_path / name / "snapshots", bucket)
