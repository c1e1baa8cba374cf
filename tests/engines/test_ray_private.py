"""Ray's private names: the installed Ray has them, only one module uses them, and all of them may be missing."""

from __future__ import annotations

import ast
import logging
import re
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.core.sections import PROJECT
from tasks.engines import cluster_connect, ray_private
from tasks.settings import load_settings

EVERY = [(use, name) for use, names in ray_private.NAMES.items() for name in names]
# Modules without an underscore that are private, too.
UNPROMISED = "ray.tune.execution"


@pytest.mark.parametrize("name", [name for _, name in EVERY])
def test_the_installed_ray_has_every_name(name: str) -> None:
    import ray

    try:
        ray_private.look_up(name)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"Ray {ray.__version__} has no {name} any more ({error}): adapt tasks/engines/ray_private.py")


def is_private(dotted: str) -> bool:
    first, *rest = re.split(r"[.:]", dotted)
    private = any(part.startswith("_") and not part.endswith("__") for part in rest)
    return first == "ray" and (private or dotted.startswith(UNPROMISED))


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def private_names(source: str) -> set[str]:
    """The private names of Ray that this code imports, reads, or has as a string."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            found.add(dotted(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value} if re.fullmatch(r"[\w.:]+", node.value) else set()
    return {name for name in found if is_private(name)}


@pytest.mark.parametrize(
    "source",
    [
        "import ray._raylet",
        "from ray import _raylet",
        "from ray._private import worker",
        "from ray.train.v2._internal.callbacks.datasets import DatasetsCallback",
        "from ray.tune.execution import class_cache",
        "import ray\nray._private.worker.f()",
        "import_module('ray._private.worker')",
    ],
)
def test_a_private_name_is_seen(source: str) -> None:
    assert private_names(source)
    assert not private_names("import ray\nfrom ray.util import state\nray.__version__")


def test_one_module_alone_uses_private_names() -> None:
    files = [path for folder in ("tasks", "flows", "benchmarks") for path in (PROJECT / folder).rglob("*.py")]
    using = {str(path.relative_to(PROJECT)): private_names(path.read_text()) for path in files}
    assert {path for path, names in using.items() if names} == {"tasks/engines/ray_private.py"}


@pytest.fixture(autouse=True)
def unwarned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_private, "_WARNED", set())


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, logger="raymill.ray")
    return caplog


def remove(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Remove the name from Ray's module, so that `ray_private` does not find it."""
    look_up = ray_private.look_up

    def without(asked: str) -> Any:
        if asked == name:
            raise AttributeError(name)
        return look_up(asked)

    monkeypatch.setattr(ray_private, "look_up", without)


def use_messages(_: pytest.MonkeyPatch) -> None:
    worker = import_module("ray._private.worker")
    before = worker.print_to_stdstream
    ray_private.send_messages_to(lambda *_: None)
    assert worker.print_to_stdstream is before


def use_loopback(_: pytest.MonkeyPatch) -> None:
    ray_private.on_loopback(alone=True)
    ray_private.on_loopback(alone=False)


def use_address(_: pytest.MonkeyPatch) -> None:
    found = cluster_connect.examine(load_settings(ray={"address": "auto"}).ray)
    assert found is not None
    assert (found.address, found.here) == ("auto", True)
    cluster_connect.check_versions(found)


def use_token(monkeypatch: pytest.MonkeyPatch) -> None:
    services = import_module("ray._private.services")
    monkeypatch.setattr(services, "canonicalize_bootstrap_address", lambda _: "10.0.0.1:6379")
    assert ray_private.own_address() == "10.0.0.1:6379"


def use_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_connect, "reach", lambda *_: None)
    found = cluster_connect.examine(load_settings(ray={"address": "10.0.0.1:6379"}).ray)
    assert found is not None
    assert (found.address, found.here) == ("10.0.0.1:6379", True)
    cluster_connect.check_versions(found)
    cluster_connect.check_is_node(found)


def use_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "init", lambda **_: SimpleNamespace(dashboard_url="10.0.0.1:8265"))
    assert ray_private.dashboard_url() == "10.0.0.1:8265"
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # never starts one
    assert ray_private.dashboard_url() is None


def use_trainer(_: pytest.MonkeyPatch) -> None:
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    assert ray_private.lean_trainer(own=True) is DataParallelTrainer


def use_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    monkeypatch.setattr(DataParallelTrainer, "_initialize_and_run_controller", lambda *_, **__: "its own controller")
    trainer = ray_private.lean_trainer(own=True)(lambda: None)
    assert trainer._initialize_and_run_controller() == "its own controller"


def use_data(_: pytest.MonkeyPatch) -> None:
    executor = import_module("ray.data._internal.execution.streaming_executor")
    before = getattr(executor, "create_cluster_autoscaler", None)
    ray_private.lean_data()
    assert getattr(executor, "create_cluster_autoscaler", None) is before


def use_trials(_: pytest.MonkeyPatch) -> None:
    cache = import_module("ray.tune.execution.class_cache")
    before = (cache.DEFAULT_ENV_VARS, cache.ENV_VARS_TO_PROPAGATE)
    ray_private.clear_trial_environments()
    assert before == (cache.DEFAULT_ENV_VARS, cache.ENV_VARS_TO_PROPAGATE)


def use_reuse(_: pytest.MonkeyPatch) -> None:
    controller = import_module("ray.tune.execution.tune_controller")
    before = getattr(controller, "_ObjectCache", None)
    ray_private.keep_trial_actors()
    assert getattr(controller, "_ObjectCache", None) is before


def test_of_two_trials_that_end_at_once_both_leave_their_actors(monkeypatch: pytest.MonkeyPatch) -> None:
    controller = import_module("ray.tune.execution.tune_controller")
    monkeypatch.setattr(controller, "_ObjectCache", controller._ObjectCache)
    ray_private.keep_trial_actors()
    cache = controller._ObjectCache(may_keep_one=True)
    assert [cache.cache_object("0.5 CPU", actor) for actor in ("first", "second")] == [True, True]
    assert list(cache.flush_cached_objects()) == []
    assert [cache.pop_cached_object("0.5 CPU"), cache.num_cached_objects] == ["first", 1]
    assert list(cache.flush_cached_objects(force_all=True)) == ["second"]


USES = {
    "messages": use_messages,
    "loopback": use_loopback,
    "address": use_address,
    "token": use_token,
    "cluster": use_cluster,
    "dashboard": use_dashboard,
    "trainer": use_trainer,
    "controller": use_controller,
    "data": use_data,
    "reuse": use_reuse,
    "trials": use_trials,
}


@pytest.mark.parametrize(("use", "name"), EVERY)
def test_without_a_name_the_public_way_is_taken_and_one_warning_given(
    monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture, use: str, name: str
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    remove(monkeypatch, name)
    USES[use](monkeypatch)
    USES[use](monkeypatch)
    warnings = [record.getMessage() for record in said.records if record.name == "raymill.ray"]
    assert warnings == [f"this Ray has no {name.replace(':', '.')}: {ray_private.WITHOUT[use]}"]


@pytest.mark.parametrize("name", sorted({name.partition(":")[0] for _, name in EVERY}))
def test_a_module_that_is_gone_is_found_missing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError):
        ray_private.look_up(f"{name}:anything")


def test_with_the_names_the_trainer_leaves_processes_out_and_nothing_is_said(said: pytest.LogCaptureFixture) -> None:
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    lean = ray_private.lean_trainer(own=False)
    assert issubclass(lean, DataParallelTrainer)
    names = {type(callback).__name__ for callback in lean(lambda: None)._create_default_callbacks()}
    assert names
    assert names.isdisjoint({"DatasetsCallback", "PlacementGroupCleanerCallback"})
    assert not said.records


def test_the_trainer_of_torch_keeps_what_shards_its_rows() -> None:
    pytest.importorskip("torch", reason="the extra deep is not installed")
    from ray.train.torch import TorchTrainer

    lean = ray_private.lean_trainer(own=False, torch=True)
    assert issubclass(lean, TorchTrainer)
    names = {type(callback).__name__ for callback in lean(lambda: None)._create_default_callbacks()}
    assert "DatasetsCallback" in names
    assert "PlacementGroupCleanerCallback" not in names


def test_the_versions_that_may_be_installed_are_those_tried() -> None:
    assert '"ray[data,train,tune]>=2.60,<2.61"' in Path(PROJECT / "pyproject.toml").read_text()
