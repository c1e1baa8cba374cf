"""Shared fixtures: a quiet environment of its own, one Ray session, one Prefect server, one whole run, a store."""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from flows.run import environment
from tasks.core import secrets
from tasks.core.storage.store import SnapshotStore
from tasks.settings import load_settings

if TYPE_CHECKING:
    from tasks.engines.expectations import Validators
    from tests.support.pipeline import Finished

# What a developer may have set for work must not decide whether a test passes.
OTHERS = ("RAYMILL_", "RAY_ADDRESS", "PREFECT_API_URL", "PREFECT_PROFILE", "MLFLOW_TRACKING_URI")

# How many examples a property is tried on. How fast a busy machine makes them up must not decide whether a test passes.
for profile, examples in (("few", 30), ("many", 400)):
    settings.register_profile(
        profile, deadline=None, max_examples=examples, suppress_health_check=[HealthCheck.too_slow]
    )

_HELD = pytest.StashKey[tuple[pytest.MonkeyPatch, "TemporaryDirectory[str]"]]()


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before the first test module is imported: Prefect and MLflow read theirs when imported."""
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile("few")
    home = TemporaryDirectory(prefix="raymill-tests-", ignore_cleanup_errors=True)
    patch = pytest.MonkeyPatch()
    for name in [n for n in os.environ if n.startswith(OTHERS)]:
        patch.delenv(name)
    patch.setenv("PREFECT_HOME", f"{home.name}/prefect")
    patch.setenv("RAYMILL_SERVICES_DIR", f"{home.name}/services")  # no `raymill up` that the developer may have running
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home.name}/mlflow.db")
    config.stash[_HELD] = patch, home


def pytest_unconfigure(config: pytest.Config) -> None:
    if held := config.stash.get(_HELD, None):
        patch, home = held
        patch.undo()
        home.cleanup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that use the one Ray session or the one whole run."""
    for item in items:
        if {"ray_session", "finished"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.sharing)


def pytest_collection_finish() -> None:
    """Leave what all test modules import, millions of objects, out of garbage collections: they took a third of the
    CPU of tests that need neither Ray nor servers."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def quiet() -> None:
    """No telemetry, no hub, no log lines of the systems below."""
    environment.prepare()


@pytest.fixture(autouse=True)
def no_secret_of_another_test() -> Iterator[None]:
    """Forget the secrets that a test told the masker of: an example's password is another's ordinary word."""
    yield
    secrets.forget()


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """The one local Ray session of the test run."""
    from tasks.engines import cluster

    cluster.start(load_settings(overrides=["ray.logical_cpus=4", "ray.object_store_mb=256"]).ray)
    from ray import cloudpickle

    # Workers cannot import test modules, so functions of these travel whole.
    tests = Path(__file__).parent
    for module in list(sys.modules.values()):
        if tests in Path(getattr(module, "__file__", None) or "/").parents:
            cloudpickle.register_pickle_by_value(module)
    yield
    cluster.stop()


@pytest.fixture(scope="session")
def validators(ray_session: None) -> Iterator[Validators]:
    """The one pair of validating processes of the test run: each imports Great Expectations, for seconds."""
    from tasks.engines.expectations import Validators

    started = Validators(workers=2)
    yield started
    started.close()


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    """An empty snapshot store."""
    return SnapshotStore(tmp_path / "snapshots")


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of the one Prefect server of the test run: the parts of Prefect that ask for concurrency slots stay
    with the first server that they meet in a process."""
    from tests.support.prefect_server import running

    with running() as api_url:
        yield api_url


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The one whole run of the test run, as a user starts it. What goes on from it takes a copy."""
    from tasks.sources.synth import synthesize
    from tests.support.pipeline import ROWS, Finished, Place
    from tests.support.prefect_server import make_database

    make_database(Path(os.environ["PREFECT_HOME"]))
    root = tmp_path_factory.mktemp("finished")
    synthesize(ROWS, 7, root / "reviews")
    place = Place(root, root / "reviews")
    # Watched by what counts its processes, which says their number, and what each kind used, after all else.
    status, said = place.start("run", around=(sys.executable, "-m", "benchmarks.cpu_seconds"))
    assert status == 0, said[-3000:]
    lines = re.findall(r"^ +\d+\.\d\d +(\d+)  (?!all, in )(.+)$", said, re.MULTILINE)
    counted = {kind: int(number) for number, kind in lines}
    assert "the command" in counted, said[-3000:]
    return Finished(place, said, place.summary, counted)
