"""A real S3 server in this process, for what lives in a bucket."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tasks.core.storage import bucket as remote
from tasks.core.storage.bucket import Bucket
from tasks.core.storage.store import SnapshotStore

SECRET = "kept-to-ourselves"


class S3Server:
    """Listens on a port of its own on loopback. What it holds outlives `stop`, until the process ends."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        self._server.stop()

    @property
    def options(self) -> str:
        return f"endpoint_override=127.0.0.1:{self.port}&scheme=http"

    def url(self, bucket: str, prefix: str = "") -> str:
        return f"s3://{bucket}/{prefix}?{self.options}"

    def make(self, bucket: str) -> None:
        self.client.create_bucket(Bucket=bucket)

    @property
    def client(self) -> Any:
        """A client that knows the keys of `credentials`."""
        return remote._client(None, f"127.0.0.1:{self.port}", "http")

    def check_credentials_after(self, requests: str) -> None:
        """Refuse all credentials after so many requests ("inf": never)."""
        url = f"http://127.0.0.1:{self.port}/moto-api/reset-auth"
        asked = urllib.request.Request(url, requests.encode(), {"Content-Type": "text/plain"}, method="POST")
        urllib.request.urlopen(asked).close()


@contextmanager
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    try:
        yield server
    finally:
        server.stop()


def set_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of this test alone, whatever the machine has."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    forget_clients()


def forget_clients() -> None:
    """A client keeps the credentials that it was made with."""
    remote._client.cache_clear()


def names(bucket: Bucket) -> set[str]:
    """All objects' names, those of attempts without what is random in them."""
    return {
        "/".join("attempt" if p.startswith("attempt-") else p for p in o.name.split("/")) for o in bucket.objects("")
    }


def digests(store: SnapshotStore) -> dict[str, str]:
    return {snapshot.key: snapshot.digest for snapshot in store}
