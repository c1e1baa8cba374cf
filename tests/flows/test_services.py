"""What `raymill up` would start, and what it refuses to."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.servers.services import Service, check_access, is_loopback, plan, reached_at
from flows.servers.up import check_databases
from flows.servers.up_state import is_up, locked, use_what_is_up
from tasks.core.errors import RunError, SettingsError
from tasks.settings import load_settings


@pytest.fixture(autouse=True)
def nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")  # so that it is as it was afterwards, whatever a test does
        monkeypatch.delenv(name)


def planned(folder: Path, *overrides: str, profile: str | None = None) -> dict[str, Service]:
    return {s.name: s for s in plan(load_settings(overrides=overrides), overrides, profile, folder)}


def test_two_servers_and_a_worker_on_loopback(tmp_path: Path) -> None:
    found = planned(tmp_path)
    assert list(found) == ["prefect", "mlflow", "worker"]
    assert (found["prefect"].url, found["mlflow"].url) == ("http://127.0.0.1:4200", "http://127.0.0.1:5000")
    for name in ("prefect", "mlflow"):
        assert found[name].arguments[list(found[name].arguments).index("--host") + 1] == "127.0.0.1"
    assert found["worker"].env["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert found["worker"].env["RAYMILL__TRACKING__URI"] == "http://127.0.0.1:5000"


def test_what_is_named_already_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example/api")
    found = planned(tmp_path, "tracking.uri=https://mlflow.example")
    assert list(found) == ["worker"]
    assert found["worker"].env["RAYMILL__TRACKING__URI"] == "https://mlflow.example"


def test_a_database_to_track_to_is_served(tmp_path: Path) -> None:
    found = planned(tmp_path, "tracking.uri=sqlite:////tmp/own.db")
    assert found["mlflow"].env["MLFLOW_BACKEND_STORE_URI"] == "sqlite:////tmp/own.db"
    assert found["worker"].env["RAYMILL__TRACKING__URI"] == found["mlflow"].url


def test_settings_given_to_up_reach_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = planned(tmp_path, "tune.trials=7", "train.params.max_depth=3")["worker"].env
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (settings.tune.trials, settings.train.params["max_depth"]) == (7, 3)


@pytest.mark.parametrize(
    ("host", "inside"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("box", False)]
)
def test_loopback(host: str, inside: bool) -> None:
    assert is_loopback(host) is inside


def test_nobody_listens_to_the_network_without_a_password(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no password is set"):
        planned(tmp_path, "services.host=0.0.0.0")
    check_access(load_settings(overrides=["services.host=0.0.0.0", "services.auth='me:secret'"]).services)


def test_auth_that_is_no_pair_is_refused() -> None:
    with pytest.raises(SettingsError, match="user:password"):
        load_settings(overrides=["services.auth=secret"])


def test_passwords_are_in_no_command_line_and_in_no_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYMILL__SERVICES__AUTH", "me:word-of-honour")
    monkeypatch.setenv("RAYMILL__SERVICES__PREFECT_DATABASE", "postgresql+asyncpg://me:word-of-honour@h/p")
    monkeypatch.setenv("RAYMILL__SERVICES__MLFLOW_DATABASE", "postgresql+psycopg://me:word-of-honour@h/m")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    found = planned(tmp_path)
    assert not any("word-of-honour" in argument for service in found.values() for argument in service.command)
    assert "word-of-honour" not in load_settings().model_dump_json()
    assert found["prefect"].env["PREFECT_SERVER_API_AUTH_STRING"] == "me:word-of-honour"
    assert found["mlflow"].env["MLFLOW_AUTH_ADMIN_PASSWORD"] == "word-of-honour"
    assert found["worker"].env["MLFLOW_TRACKING_PASSWORD"] == "word-of-honour"


@pytest.mark.parametrize(("host", "here"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("10.0.0.4", "10.0.0.4")])
def test_an_address_to_listen_at_is_not_always_one_to_ask(host: str, here: str) -> None:
    assert reached_at(host) == here


def test_a_database_that_is_down_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYMILL__SERVICES__PREFECT_DATABASE", "postgresql+asyncpg://me:hidden@127.0.0.1:1/p")
    with pytest.raises(RunError, match="does not let us in") as raised:
        check_databases(load_settings())
    assert "hidden" not in str(raised.value)
    monkeypatch.setenv("RAYMILL__SERVICES__PREFECT_DATABASE", "mysql://h/p")
    with pytest.raises(SettingsError, match="is no URL of a database for prefect"):
        check_databases(load_settings())


class TestLock:
    def test_a_second_up_is_refused(self, tmp_path: Path) -> None:
        assert not is_up(tmp_path)
        with locked(tmp_path):
            assert is_up(tmp_path)
            with pytest.raises(RunError, match="up already"), locked(tmp_path):
                pass
        assert not is_up(tmp_path)

    def test_commands_use_what_is_up_and_nothing_else(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import os

        monkeypatch.setenv("RAYMILL_SERVICES_DIR", str(tmp_path))
        services = {"prefect": {"url": "http://127.0.0.1:4711"}, "mlflow": {"url": "http://127.0.0.1:4712"}}
        (tmp_path / "state.json").write_text(f'{{"services": {services}}}'.replace("'", '"'))
        use_what_is_up()  # an old file of one that is gone
        assert "PREFECT_API_URL" not in os.environ
        with locked(tmp_path):
            use_what_is_up()
        assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:4711/api"
        assert os.environ["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:4712"
