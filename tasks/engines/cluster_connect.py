"""Attaching to a Ray cluster that runs already: where it is, whether it fits, and what its workers are given.

`ray.init` waits a minute or more for a cluster that is not there, and then says little. So the address is looked at
first, within seconds, and what is wrong with it is said before anything is started.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLong
from dataclasses import dataclass
from typing import Any, TypeVar

from tasks.core.errors import RaymillError, SettingsError, UserError
from tasks.core.sections import PROJECT, RayConfig
from tasks.engines import ray_private

CONNECT_S = 5.0  # for the port to answer
EXAMINE_S = 15.0  # for the cluster to say what it is
INIT_S = 90.0  # for `ray.init`; it takes 1 s, and longer where the head is busy
CODE = ("tasks", "benchmarks", "conf")  # what workers need of the project, 1 MB; all of it would travel with its data

# What an HTTP/2 client says first, and an empty SETTINGS frame. Any gRPC server answers with a frame of its own.
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SETTINGS_FRAME, FRAME_HEAD = 4, 9
UNIMPLEMENTED, UNAUTHENTICATED = 12, 16  # gRPC's codes

EXAMPLE = "give HOST:PORT as `ray start --head` prints it, auto for the cluster of this machine, or local"
ON_A_NODE = (
    "start raymill on a node of the cluster, with ray.address=auto or HOST:PORT, or there as a job: "
    "`ray job submit -- raymill run ...`, or KubeRay's RayJob"
)

T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """A cluster that answered. nodes: addresses of the living nodes; here: whether one of them is this machine.

    where: the setting that named it, and its address.
    """

    where: str
    address: str
    ray: str
    python: str
    nodes: tuple[str, ...]
    here: bool


def wanted(config: RayConfig) -> tuple[str, str] | None:
    """The address given and the setting or variable that gives it; None where a local session is wanted.

    Raises SettingsError for an address that cannot be one.
    """
    given, where = config.address, "ray.address"
    if given is None or (given.strip() == "auto" and os.environ.get("RAY_ADDRESS")):  # as Ray has it
        given, where = os.environ.get("RAY_ADDRESS"), "RAY_ADDRESS"
    if given is None or given.strip() == "local":
        return None
    given = given.strip()
    if not given:
        otherwise = "set it to null" if where == "ray.address" else "unset it"
        raise SettingsError("the address is empty", where=where, fix=f"{EXAMPLE}; or {otherwise}")
    if given.startswith("ray://"):
        # Tried with 2.60: Modin and Ray Train run through it; Ray Data and calls to concurrency groups raise.
        what = "not all stages run through Ray Client (ray://): Ray Data needs a driver on a node of the cluster"
        raise SettingsError(what, where=where, fix=ON_A_NODE)
    if "://" in given:
        raise SettingsError(f"{given} is a page's address, not a cluster's", where=where, fix=EXAMPLE)
    if given != "auto":
        host_and_port(given, where)
    return given, where


def host_and_port(address: str, where: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise SettingsError(f"{address!r} is not HOST:PORT", where=where, fix=EXAMPLE)
    return host.strip("[]"), int(port)


def examine(config: RayConfig) -> Found | None:
    """The cluster that the settings name, without joining it; None where a local session is wanted.

    Raises UserError, within some 20 s, where it does not answer or has other versions of Ray or Python.
    """
    if (given := wanted(config)) is None:
        return None
    address, where = given
    # Ray says on this logger that it uses an address, or a token; `ray.init` sets the level, later.
    logging.getLogger("ray").setLevel(logging.ERROR)
    if address == "auto":
        if (own := _of_this_machine(where)) is None:
            return _unseen("auto", f"{where} (auto)")
        address = own
    host, port = host_and_port(address, where)
    where = f"{where} ({address})"
    reach(host, port, where)
    found = within(EXAMINE_S, lambda: _ask(address, where), where)
    check_versions(found)
    return found


def _of_this_machine(where: str) -> str | None:
    try:
        return ray_private.own_address()
    except ConnectionError:
        raise UserError(
            "no Ray cluster runs on this machine", where=f"{where} (auto)", fix="`ray start --head`, or give HOST:PORT"
        ) from None


def reach(host: str, port: int, where: str) -> None:
    """Raise UserError unless a gRPC server listens there."""
    fix = "check that the cluster runs (`ray status` on its head), the address, and that no firewall is between"
    try:
        with socket.create_connection((host, port), timeout=CONNECT_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
                return
            connection.sendall(HTTP2)
            answer = b""
            while len(answer) < FRAME_HEAD and (more := connection.recv(FRAME_HEAD - len(answer))):
                answer += more
    except socket.gaierror:
        raise UserError(f"the host {host} is not known", where=where, fix="check the address") from None
    except TimeoutError:
        raise UserError(f"the Ray cluster did not answer within {CONNECT_S:g} s", where=where, fix=fix) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"the Ray cluster cannot be reached: {reason}", where=where, fix=fix) from None
    if len(answer) < FRAME_HEAD or answer[3] != SETTINGS_FRAME:
        raise UserError("what listens there is no Ray cluster", where=where, fix=EXAMPLE)


def _ask(address: str, where: str) -> Found:
    if (said := ray_private.facts(address, EXAMINE_S)) is None:
        return _unseen(address, where)
    return Found(where, address, said.ray, said.python, said.nodes, said.here)


def _unseen(address: str, where: str) -> Found:
    """Taken to fit where this Ray lets nobody look: `ray.init` compares the versions and looks for a node here."""
    import ray

    return Found(where, address, ray.__version__, ".".join(map(str, sys.version_info[:3])), (), here=True)


def within(seconds: float, call: Callable[[], T], where: str) -> T:
    """`call()`, whose errors are told as the user's; UserError where it takes longer: Ray retries on its own terms."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="ray-attach", daemon=True).start()
    try:
        return outcome.result(timeout=seconds)
    except TooLong:
        raise too_slow(seconds, where) from None
    except RaymillError:
        raise
    except Exception as error:
        raise translated(error, where) from error


def too_slow(seconds: float, where: str) -> UserError:
    fix = "check that this is the port of the cluster's head (GCS), as `ray start --head` prints it"
    return UserError(f"the Ray cluster did not answer within {seconds:g} s", where=where, fix=fix)


def translated(error: BaseException, where: str) -> UserError:
    """What Ray raises when it attaches, as the user's error."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    said = " ".join(" ".join(map(str, chain)).split())
    codes = {getattr(e, "rpc_code", None) for e in chain}
    if UNIMPLEMENTED in codes:
        return UserError("what listens there is no Ray cluster", where=where, fix=EXAMPLE)
    if UNAUTHENTICATED in codes or "uthentication" in said:
        return UserError(
            "the Ray cluster asks for its token",
            where=where,
            fix="set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH as on its head",
        )
    if "ersion mismatch" in said:
        return UserError(said, where=where, fix="install the same Ray and Python here and on the cluster")
    return UserError(f"cannot attach to the Ray cluster: {said[:500]}", where=where, fix=ON_A_NODE)


def check_versions(found: Found) -> None:
    """Raise UserError unless the cluster has this process's Ray and Python, to the patch: functions travel pickled."""
    import ray

    python = ".".join(map(str, sys.version_info[:3]))
    level = 2 if os.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL") == "minor" else 3  # Ray's own way out
    if found.ray == ray.__version__ and found.python.split(".")[:level] == python.split(".")[:level]:
        return
    raise UserError(
        f"the cluster has Ray {found.ray} and Python {found.python}, this process Ray {ray.__version__} "
        f"and Python {python}",
        where=found.where,
        fix="install the same versions on both: `pip install --constraint constraints.txt`, or the cluster's image",
    )


def check_is_node(found: Found) -> None:
    """Raise UserError where this machine is no node of the cluster: Ray would look for one for a minute."""
    if not found.here:
        what = f"this machine is no node of the cluster, which has {', '.join(found.nodes) or 'none'}"
        raise UserError(what, where=found.where, fix=ON_A_NODE)


def runtime_env(config: RayConfig, worker_env: Mapping[str, str]) -> dict[str, Any]:
    """What Ray gives the workers of this job: the project's code, and variables.

    Ray names the package after its content, and sends it again only if that has changed. Inside a Ray job the job's
    own environment comes first: Ray refuses two that say the same.
    """
    missing = [name for name in config.env if name not in os.environ]
    if missing:
        raise SettingsError(f"{missing[0]} is not set in this process", where="ray.env", fix="set it, or leave it out")
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}").get("runtime_env") or {}
    variables = {**worker_env, **{name: os.environ[name] for name in config.env}}
    given: dict[str, Any] = {
        "env_vars": {name: value for name, value in variables.items() if name not in job.get("env_vars", {})}
    }
    if "working_dir" not in job:
        others = sorted(path.name for path in PROJECT.iterdir() if path.name not in CODE)
        given |= {"working_dir": str(PROJECT), "excludes": [*(f"/{name}" for name in others), "__pycache__"]}
    return given
