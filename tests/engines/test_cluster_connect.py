"""Attaching to a cluster: which addresses are accepted, and the errors for one that is missing or does not fit."""

from __future__ import annotations

import json
import socket
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import SettingsError, UserError
from tasks.core.sections import RayConfig
from tasks.engines import cluster, cluster_connect, nodes
from tasks.settings import load_settings
from tasks.stages import declared_stages


def config(address: str | None = None, **more: Any) -> RayConfig:
    return load_settings(ray={"address": address, **more}).ray


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_USE_TLS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("address", "variable", "wanted"),
    [
        (None, None, None),
        ("local", "10.0.0.1:6379", None),
        (None, "local", None),
        ("10.0.0.1:6379", None, ("10.0.0.1:6379", "ray.address")),
        ("10.0.0.1:6379", "10.0.0.2:6379", ("10.0.0.1:6379", "ray.address")),
        (None, "10.0.0.2:6379", ("10.0.0.2:6379", "RAY_ADDRESS")),
        ("auto", None, ("auto", "ray.address")),
        ("auto", "10.0.0.2:6379", ("10.0.0.2:6379", "RAY_ADDRESS")),
        ("[::1]:6379", None, ("[::1]:6379", "ray.address")),
    ],
)
def test_the_address_comes_from_the_settings_or_from_ray_address(
    monkeypatch: pytest.MonkeyPatch, address: str | None, variable: str | None, wanted: tuple[str, str] | None
) -> None:
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert cluster_connect.wanted(config(address)) == wanted


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("", "the address is empty"),
        ("  ", "the address is empty"),
        ("head", "not HOST:PORT"),
        ("head:", "not HOST:PORT"),
        ("head:port", "not HOST:PORT"),
        ("head:70000", "not HOST:PORT"),
        ("http://head:8265", "a page's address"),
        ("ray://head:10001", "Ray Client"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused_wherever_it_is_given(
    monkeypatch: pytest.MonkeyPatch, address: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=said) as refused:
        cluster_connect.wanted(config(address))
    assert refused.value.where == "ray.address"
    assert refused.value.fix
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(SettingsError, match=said) as refused:
        cluster_connect.wanted(config())
    assert refused.value.where == "RAY_ADDRESS"


def test_ray_client_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(SettingsError) as refused:
        cluster_connect.wanted(config("ray://head:10001"))
    assert "on a node of the cluster" in refused.value.fix
    assert "RayJob" in refused.value.fix


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_cluster_that_is_not_there_is_said_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, and nobody listens
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(UserError, match="cannot be reached: Connection refused") as told:
            cluster_connect.examine(config(address))
    assert told.value.where == f"ray.address ({address})"
    assert "ray status" in told.value.fix


def test_a_host_that_nobody_knows_is_said() -> None:
    with pytest.raises(UserError, match=r"the host nowhere\.invalid is not known"):
        cluster_connect.examine(config("nowhere.invalid:6379"))


def test_a_port_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setattr(cluster_connect, "CONNECT_S", 0.2)
    with pytest.raises(UserError, match=r"did not answer within 0\.2 s"):
        cluster_connect.examine(config(f"127.0.0.1:{port}"))


def test_a_web_server_is_no_cluster() -> None:
    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with pytest.raises(UserError, match="not a Ray cluster"):
            cluster_connect.examine(config(f"127.0.0.1:{server.server_port}"))
        server.shutdown()


def test_what_ray_does_on_its_own_terms_is_given_up() -> None:
    never = threading.Event()
    with pytest.raises(UserError, match=r"did not answer within 0\.1 s"):
        cluster_connect.within(0.1, never.wait, "ray.address")
    never.set()


def found(**but: Any) -> cluster_connect.Found:
    import ray

    same = {"where": "ray.address (h:1)", "address": "h:1", "ray": ray.__version__, "nodes": ("10.0.0.1",)}
    return cluster_connect.Found(**{**same, "python": ".".join(map(str, sys.version_info[:3])), "here": True, **but})


def test_other_versions_are_named_with_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster_connect.check_versions(found())
    with pytest.raises(UserError, match=r"the cluster has Ray 2\.0\.0 and Python"):
        cluster_connect.check_versions(found(ray="2.0.0"))
    with pytest.raises(UserError, match=r"Python 3\.9\.1, this process"):
        cluster_connect.check_versions(found(python="3.9.1"))
    patch = f"{sys.version_info[0]}.{sys.version_info[1]}.99"
    with pytest.raises(UserError, match="this process"):
        cluster_connect.check_versions(found(python=patch))
    monkeypatch.setenv("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "minor")
    cluster_connect.check_versions(found(python=patch))


def test_a_machine_beside_the_cluster_is_told_so() -> None:
    cluster_connect.check_is_node(found())
    with pytest.raises(UserError, match=r"not a node of the cluster; its nodes: 10\.0\.0\.1"):
        cluster_connect.check_is_node(found(here=False))


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.0.0\n"), "Ray: 2.0.0"),
        (ConnectionError("Failed to connect to Ray cluster at h:1"), "cannot attach to the Ray cluster: Failed"),
    ],
)
def test_what_ray_raises_is_told_as_the_users_to_mend(raised: Exception, said: str) -> None:
    told = cluster_connect.translated(raised, "ray.address (h:1)")
    assert said in told.what
    assert told.where == "ray.address (h:1)"
    assert told.fix


def test_the_code_that_travels_is_what_workers_import_and_nothing_that_a_run_writes(tmp_path: Path) -> None:
    from ray._private.runtime_env import packaging

    given = cluster_connect.runtime_env(config(), {})
    target = tmp_path / "code.zip"
    packaging.create_package(given["working_dir"], target, include_gitignore=True, excludes=given["excludes"])
    names = zipfile.ZipFile(target).namelist()
    assert {name.split("/")[0] for name in names} == set(cluster_connect.CODE)
    assert {"tasks/stages/clean/stage.py", "tasks/engines/nodes.py", "conf/base.yaml"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]
    assert target.stat().st_size < 5 << 20


def test_workers_get_the_variables_that_are_named_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-nobody's-concern")
    monkeypatch.setenv("AWS_PROFILE", "nightly")
    assert cluster_connect.runtime_env(config(), {"A": "1"})["env_vars"] == {"A": "1"}
    named = cluster_connect.runtime_env(config(env=["AWS_PROFILE"]), {"A": "1"})["env_vars"]
    assert named == {"A": "1", "AWS_PROFILE": "nightly"}
    monkeypatch.delenv("AWS_PROFILE")
    with pytest.raises(SettingsError, match="AWS_PROFILE is not set"):
        cluster_connect.runtime_env(config(env=["AWS_PROFILE"]), {})


def test_inside_a_ray_job_the_jobs_own_environment_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray refuses to start if the job and the driver set the same variable."""
    from ray.runtime_env import RuntimeEnv
    from ray.runtime_env.runtime_env import _merge_runtime_env

    job = {"working_dir": "gcs://_ray_pkg_0123456789abcdef.zip", "env_vars": {"A": "job"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": job}))
    given = cluster_connect.runtime_env(config(), {"A": "ours", "B": "ours"})
    assert given == {"env_vars": {"B": "ours"}}
    assert _merge_runtime_env(RuntimeEnv(**job), given)["env_vars"] == {"A": "job", "B": "ours"}


def test_a_local_session_is_started_beside_a_cluster_that_runs_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address Ray would attach to the cluster of the last `ray start`, and refuse our arguments."""
    import ray

    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "init", lambda **given: asked.append(given))
    cluster._start(config())
    assert asked[0]["address"] == "local"
    assert "runtime_env" not in asked[0]


def answer(**but: Any) -> nodes.Answer:
    return nodes.Answer(**{"problem": "", "code": nodes.code_digest(), "versions": nodes.versions(), **but})


def test_a_node_that_shares_the_folder_code_and_libraries_is_fit(tmp_path: Path) -> None:
    (tmp_path / "driver").write_text(tmp_path.name)
    said = nodes.look(str(tmp_path), "node-1")
    assert said == answer()
    nodes.judge(said, tmp_path, "node-1", "node 10.0.0.2")


def test_a_node_that_does_not_see_the_folder_is_named(tmp_path: Path) -> None:
    said = nodes.look(str(tmp_path / "gone"), "node-1")
    with pytest.raises(UserError, match="this node does not see it") as told:
        nodes.judge(said, tmp_path / "gone", "node-1", "node 10.0.0.2")
    assert told.value.where == "node 10.0.0.2"
    assert str(tmp_path) in told.value.what
    assert "all nodes mount" in told.value.fix


def test_a_node_with_another_folder_of_that_name_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="writes to another folder"):
        nodes.judge(answer(), tmp_path, "node-1", "node 10.0.0.2")
    (tmp_path / "driver").write_text("of another run")
    assert "another file" in nodes.look(str(tmp_path), "node-1").problem


def test_a_node_with_other_libraries_or_code_is_named(tmp_path: Path) -> None:
    (tmp_path / "node-1").touch()
    other = answer(versions={**nodes.versions(), "xgboost": "1.0"})
    with pytest.raises(UserError, match=r"xgboost is 1\.0 there and"):
        nodes.judge(other, tmp_path, "node-1", "node 10.0.0.2")
    with pytest.raises(UserError, match="polars is not installed there"):
        nodes.judge(answer(versions={**nodes.versions(), "polars": ""}), tmp_path, "node-1", "node 10.0.0.2")
    with pytest.raises(UserError, match="code there differs"):
        nodes.judge(answer(code="other"), tmp_path, "node-1", "node 10.0.0.2")


def test_the_libraries_asked_for_decide_the_output_of_some_stage() -> None:
    declared = {library for stage in declared_stages().values() for library in stage.libraries}
    assert declared <= set(nodes.LIBRARIES)
