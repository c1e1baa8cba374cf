"""The start of `raymill serve` through Ray Serve, without Ray: what is refused before, and how it ends."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.serve import on_ray
from tasks.core.errors import RegistryError, RunError, SettingsError
from tasks.engines import cluster, ray_private
from tasks.settings import Settings, load_settings

pytest.importorskip("grpc", reason="the extra `serve` is not installed")


def settings(place: Path, *overrides: str) -> Settings:
    return load_settings(overrides=[f"storage.root={place}", f"tracking.uri=sqlite:///{place}/none.db", *overrides])


def test_without_a_champion_ray_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "start", lambda *_: pytest.fail("Ray was started"))
    with pytest.raises(RegistryError, match="there is no database"):
        on_ray.serve(settings(tmp_path), "champion", lambda *_: None)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            RuntimeError("Deploying application raymill failed: 3 times\nTraceback\n  KeyError: 'a'"),
            "3 times … KeyError",
        ),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_what_ray_serve_raises_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(on_ray, "_run", fail)
    with pytest.raises(RunError, match=f"Ray Serve did not start: .*{told}"):
        on_ray.run(settings(tmp_path), "champion")


def test_replicas_that_never_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(cluster, "is_own", lambda: True)
    on_ray.check_room(settings(tmp_path, "serve.replicas=4"))
    with pytest.raises(SettingsError, match=r"5 replicas take 0\.5 CPUs each, and Ray has 2"):
        on_ray.check_room(settings(tmp_path, "serve.replicas=5"))
    monkeypatch.setattr(cluster, "is_own", lambda: False)  # more nodes may come
    on_ray.check_room(settings(tmp_path, "serve.replicas=5"))


def test_a_ray_serve_that_listens_elsewhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in (None, ("127.0.0.1", 8000)):
        monkeypatch.setattr(ray_private, "serve_address", lambda address=address: address)
        on_ray.check_options(settings(tmp_path))
    monkeypatch.setattr(ray_private, "serve_address", lambda: ("0.0.0.0", 8001))
    with pytest.raises(SettingsError, match=r"at 0\.0\.0\.0, port 8001"):
        on_ray.check_options(settings(tmp_path))


@pytest.mark.parametrize(("own", "ended"), [(True, ["all"]), (False, ["raymill"])])
def test_on_a_cluster_of_others_only_our_application_ends(
    monkeypatch: pytest.MonkeyPatch, own: bool, ended: list[str]
) -> None:
    from ray import serve

    done: list[str] = []
    monkeypatch.setattr(cluster, "is_own", lambda: own)
    monkeypatch.setattr(serve, "shutdown", lambda: done.append("all"))
    monkeypatch.setattr(serve, "delete", done.append)
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications={"raymill": None, "theirs": None}))
    with pytest.raises(RunError), on_ray.serving():
        raise RunError("no")
    assert done == ended


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_interrupt_a_start(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), on_ray.signals_as(on_ray._interrupt):
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_what_waits_in_the_proxy_is_bounded(tmp_path: Path) -> None:
    made = on_ray.deployment(settings(tmp_path, "serve.max_waiting=40"))
    assert made.max_queued_requests == 40
