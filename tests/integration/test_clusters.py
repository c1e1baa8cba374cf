"""Clusters of several nodes: the same digests as one node gives, and nodes that do not fit are named at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tasks.core.sections import PROJECT
from tasks.sources.synth import synthesize
from tests.support.ray_nodes import Nodes

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(1200)]

SETTINGS = {
    "tune.trials": 2,
    "tune.concurrent": 1,  # trials end in the order they began in: the search too can be compared
    "tune.max_rounds": 20,
    "train.rounds": 10,
    "train.workers": 2,  # on a node each, where there are two
    "features.text_score.dimensions": 4096,
    "features.text_score.borders": [0.3, 0.6],
    "pack_tokens.enabled": "true",
    "embeddings.enabled": "true",
}
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"),
    reason="needs root, unshare and ip, to give nodes file systems and networks of their own",
)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sample(tmp_path_factory.mktemp("reviews"))


def make_sample(folder: Path) -> Path:
    synthesize(3000, 7, folder / "sample")
    return folder / "sample"


def raymill(
    root: Path, sample: Path, environment: Mapping[str, str], *, around: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """A whole run as a user starts it. around: a command that runs it."""
    given = {"storage.root": root, "tracking.uri": f"sqlite:///{root}/mlflow.db", **SETTINGS}
    command = [*around, sys.executable, "-m", "flows.cli.main", "run", "--input", str(sample)]
    command += ["--json", str(root / "run.json"), *(f"--set={name}={value}" for name, value in given.items())]
    root.mkdir(exist_ok=True)
    return subprocess.run(command, cwd=PROJECT, env={**environment}, capture_output=True, text=True, timeout=900)


Keys = dict[str, tuple[str, str]]  # stage -> key and digest of its snapshot


def keys(done: subprocess.CompletedProcess[str], root: Path) -> Keys:
    assert done.returncode == 0, done.stdout + done.stderr
    stages = json.loads((root / "run.json").read_text())["stages"]
    assert not any(s["reused"] for s in stages)
    return {s["stage"]: (s["key"], s["digest"]) for s in stages if s["digest"]}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Keys:
    """Of a run in a session of its own, on one node."""
    root = tmp_path_factory.mktemp("local") / "data"
    return keys(raymill(root, sample, os.environ), root)


def test_a_second_node_changes_no_digest_and_does_its_share(tmp_path: Path, sample: Path, local: Keys) -> None:
    assert {"clean", "tokenize", "features", "tune", "refit", "evaluate", "report"} <= set(local)
    with Nodes() as nodes:
        nodes.start(cpus=1)
        second = nodes.start(cpus=3)
        root = tmp_path / "data"
        assert keys(raymill(root, sample, nodes.environment), root) == local
        assert len(second.tasks()) > 5, "the second node had nothing to do"


# Attaches as a run does, and prints the error, or which nodes are fit.
ATTACH = """
import sys
from pathlib import Path

from tasks.core.errors import RaymillError
from tasks.settings import load_settings
from tasks.engines import cluster

try:
    cluster.start(load_settings().ray, Path(sys.argv[1]))
    print(len(cluster._CHECKED), "fit")
except RaymillError as error:
    print(type(error).__name__, error)
"""


def attach(root: Path, environment: Mapping[str, str], *, around: Sequence[str] = ()) -> str:
    command = [*around, sys.executable, "-c", ATTACH, str(root)]
    done = subprocess.run(command, cwd=PROJECT, env={**environment}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_keeps_a_driver_from_a_cluster_is_said(tmp_path: Path) -> None:
    with Nodes() as nodes:
        head = nodes.start(cpus=1)
        assert attach(tmp_path, nodes.environment) == "1 fit\n"
        assert list(tmp_path.iterdir()) == []

        without = {**nodes.environment, "RAY_AUTH_MODE": "disabled"}
        assert "the Ray cluster asks for its token" in attach(tmp_path, without)

        doctor = [sys.executable, "-m", "flows.cli.main", "doctor"]
        options: dict[str, Any] = {"cwd": PROJECT, "env": nodes.environment, "capture_output": True, "text": True}
        assert f"the cluster at {nodes.address} answers: 1 node(s)" in subprocess.run(doctor, **options).stdout

        pretend_other_version(nodes)
        told = attach(tmp_path, nodes.environment)
        assert "the cluster has Ray 1.2.3 and Python" in told
        assert told.startswith(f"UserError RAY_ADDRESS ({nodes.address})")
        assert "the cluster has Ray 1.2.3" in subprocess.run(doctor, **options).stdout

        head.kill()
        assert "cannot be reached: Connection refused" in attach(tmp_path, nodes.environment)
        refused = raymill(tmp_path / "data", make_sample(tmp_path), nodes.environment)
        assert refused.returncode == 2
        assert "cannot be reached: Connection refused" in refused.stderr
        assert "Traceback" not in refused.stderr


def pretend_other_version(nodes: Nodes) -> None:
    """Make the cluster say that it was started by another Ray."""
    code = (
        "import sys; from ray._raylet import GcsClient; from ray._common.usage import usage_constants as at;"
        "client = GcsClient(address=sys.argv[1]); about = client.internal_kv_get(at.CLUSTER_METADATA_KEY, b'cluster');"
        "import json, ray; about = {**json.loads(about), 'ray_version': '1.2.3'};"
        "client.internal_kv_put(at.CLUSTER_METADATA_KEY, json.dumps(about).encode(), True, b'cluster')"
    )
    subprocess.run([sys.executable, "-c", code, nodes.address], env=nodes.environment, check=True, timeout=60)


@needs_root
def test_a_node_that_does_not_see_the_storage_is_named_before_any_work(tmp_path: Path) -> None:
    """The second node has file systems of its own: an empty one lies over the folder."""
    root = tmp_path / "data"
    root.mkdir()
    hidden = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(root)]
    with Nodes() as nodes:
        nodes.start(cpus=1)
        nodes.start(cpus=1, around=hidden)
        told = attach(root, nodes.environment)
        assert told.startswith("UserError node ")
        assert f"storage.root is {root}, and this node does not see it" in told
        assert "all nodes mount" in told
        assert list(root.iterdir()) == []


@needs_root
def test_nodes_with_addresses_and_code_of_their_own(tmp_path: Path, sample: Path, local: Keys) -> None:
    """Two networks joined by a cable. The second node lacks the project's code: it gets it from the driver."""
    code = str(PROJECT / "tasks")
    with separate_networks() as (first, second), Nodes() as nodes:
        nodes.start(cpus=1, around=first, ip="10.77.0.1")
        without_code = [*second, "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', code]
        far = nodes.start(cpus=3, around=without_code, ip="10.77.0.2")
        assert nodes.address.startswith("10.77.0.1:")
        assert attach(tmp_path, nodes.environment).startswith("UserError"), "from a network that is not the cluster's"
        root = tmp_path / "data"
        assert keys(raymill(root, sample, nodes.environment, around=first), root) == local
        assert len(far.tasks()) > 5


@contextmanager
def separate_networks() -> Iterator[tuple[list[str], list[str]]]:
    """Two network namespaces joined by a cable, 10.77.0.1 and 10.77.0.2; commands that run others in them."""
    names = [f"raymill-{os.getpid()}-{i}" for i in (1, 2)]
    ends = [f"rm{os.getpid() % 100_000}a", f"rm{os.getpid() % 100_000}b"]
    steps = [["netns", "add", name] for name in names]
    steps += [["link", "add", ends[0], "type", "veth", "peer", "name", ends[1]]]
    for name, end, address in zip(names, ends, ("10.77.0.1/24", "10.77.0.2/24"), strict=True):
        steps += [["link", "set", end, "netns", name], ["-n", name, "addr", "add", address, "dev", end]]
        steps += [["-n", name, "link", "set", device, "up"] for device in ("lo", end)]
    try:
        for step in steps:
            done = subprocess.run(["ip", *step], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"no network namespaces here: ip {' '.join(step)}: {done.stderr.strip()}")
        yield ["ip", "netns", "exec", names[0]], ["ip", "netns", "exec", names[1]]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
