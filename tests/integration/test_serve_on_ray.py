"""`raymill serve` through Ray Serve and HTTP: a promotion, a replica that is killed, and where it all listens."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
import pytest

from tasks.settings import Settings, load_settings
from tests.support.served_models import register_all, request

pytest.importorskip("grpc", reason="the extra `serve` is not installed")
PATIENCE_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Place:
    settings: Settings
    client: Any

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.serve.port}"


@pytest.fixture(scope="module")
def place(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    from ray import serve

    from flows.serve.on_ray import run

    root = tmp_path_factory.mktemp("served")
    uri = f"sqlite:///{root / 'mlflow.db'}"
    client = register_all(uri, root / "versions")
    given = [f"tracking.uri={uri}", "data.name=toys", f"storage.root={root}"]
    settings = load_settings(overrides=[*given, f"serve.port={free_port()}", "serve.poll_seconds=0.2"])
    assert run(settings, "champion")["version"] == "1"
    yield Place(settings, client)
    serve.shutdown()


@dataclass
class Load:
    """Sends one request after the other until it is told to stop."""

    url: str
    statuses: list[int] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def work(self) -> None:
        with httpx.Client(timeout=PATIENCE_S) as client:
            while not self.stopped.is_set():
                try:
                    answer = client.post(f"{self.url}/predict", json=[request(), request(text="bad")])
                except httpx.HTTPError as error:
                    self.errors.append(repr(error))
                    continue
                with self.changed:
                    self.statuses.append(answer.status_code)
                    if answer.status_code == 200:
                        self.versions += {row["model_version"] for row in answer.json()}
                    self.changed.notify_all()

    def until(self, what: Any) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: what(self), PATIENCE_S), self

    def __enter__(self) -> Load:
        self.threads = [threading.Thread(target=self.work) for _ in range(3)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(PATIENCE_S)


def replicas() -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if "ServeReplica:raymill" in " ".join(p.info["cmdline"] or ())]


def test_a_promotion_under_load_loses_no_request(place: Place) -> None:
    with Load(place.url) as load:
        load.until(lambda done: len(done.versions) > 5)
        place.client.set_registered_model_alias("raymill-toys-rating", "champion", "2")
        load.until(lambda done: "2" in done.versions[-3:])
        place.client.set_registered_model_alias("raymill-toys-rating", "champion", "1")
        load.until(lambda done: done.versions[-1:] == ["1"] and "2" in done.versions)
    assert set(load.statuses) == {200}
    assert load.errors == []


def test_all_listens_on_loopback(place: Place) -> None:
    """Of Ray Serve's own processes: other tests have clusters that listen elsewhere."""
    names = ("ServeReplica", "ServeController", "ProxyActor")
    own = [p for p in psutil.Process().children(recursive=True) if any(name in " ".join(p.cmdline()) for name in names)]
    addresses = {c.laddr.ip for p in own for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    assert len(own) >= 3
    assert addresses
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_a_killed_replica_is_replaced(place: Place) -> None:
    before = {p.pid for p in replicas()}
    with Load(place.url) as load:
        load.until(lambda done: len(done.versions) > 5)
        for process in replicas():
            process.kill()
        count = len(load.versions)
        load.until(lambda done: len(done.versions) > count + 20)
    assert {p.pid for p in replicas()}.isdisjoint(before)
    # Those that the replica had begun are lost, at most one of each client; others wait for the new one.
    assert len(load.errors) + sum(status != 200 for status in load.statuses) <= len(load.threads)


def test_a_client_that_hangs_up_hinders_none(place: Place) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", place.settings.serve.port), 5) as hung:
            head = (
                "POST /predict HTTP/1.1",
                "Host: x",
                "Content-Type: application/json",
                "Content-Length: 90",
                "",
                "{",
            )
            hung.sendall("\r\n".join(head).encode())
    assert httpx.post(f"{place.url}/predict", json=request(), timeout=PATIENCE_S).status_code == 200
