"""Attach to a running Ray cluster: find its address, check that it fits, and set up its workers' environment.

`ray.init` waits a minute or more for a cluster that is not there, and reports little. So this checks the address first,
within seconds, and reports what is wrong before anything starts.
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
EXAMINE_S = 15.0  # for the cluster to describe itself
INIT_S = 90.0  # for `ray.init`; it takes 1 s, and longer where the head is busy
CODE = ("tasks", "benchmarks", "conf")  # the folders that workers need, 1 MB; without the project's data

# An HTTP/2 client's preface and an empty SETTINGS frame. Any gRPC server answers with a frame of its own.
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
    """Return the cluster's address and the setting or variable that names it; None for a local session.

    Raises SettingsError for an invalid address.
    """
    address, where = config.address, "ray.address"
    if address is None or (address.strip() == "auto" and os.environ.get("RAY_ADDRESS")):  # as Ray does
        address, where = os.environ.get("RAY_ADDRESS"), "RAY_ADDRESS"
    if address is None or address.strip() == "local":
        return None
    address = address.strip()
    if not address:
        otherwise = "set it to null" if where == "ray.address" else "unset it"
        raise SettingsError("the address is empty", where=where, fix=f"{EXAMPLE}; or {otherwise}")
    if address.startswith("ray://"):
        # With Ray 2.60, Modin and Ray Train work through it; Ray Data and calls to concurrency groups raise.
        what = "not all stages run through Ray Client (ray://): Ray Data needs a driver on a node of the cluster"
        raise SettingsError(what, where=where, fix=ON_A_NODE)
    if "://" in address:
        raise SettingsError(f"{address} is a page's address, not a cluster's", where=where, fix=EXAMPLE)
    if address != "auto":
        host_and_port(address, where)
    return address, where


def host_and_port(address: str, where: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise SettingsError(f"{address!r} is not HOST:PORT", where=where, fix=EXAMPLE)
    return host.strip("[]"), int(port)


def examine(config: RayConfig) -> Found | None:
    """Describe the cluster that the settings name, without joining it; None for a local session.

    Raises UserError, within some 20 s, if it does not answer or has other versions of Ray or Python.
    """
    if (address_and_setting := wanted(config)) is None:
        return None
    address, where = address_and_setting
    # Ray logs here that it uses an address, or a token; `ray.init` sets the level later.
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
        raise UserError("the server at this address is not a Ray cluster", where=where, fix=EXAMPLE)


def _ask(address: str, where: str) -> Found:
    if (facts := ray_private.facts(address, EXAMINE_S)) is None:
        return _unseen(address, where)
    return Found(where, address, facts.ray, facts.python, facts.nodes, facts.here)


def _unseen(address: str, where: str) -> Found:
    """Assume that the cluster fits if this Ray has no way to ask: `ray.init` checks versions and nodes itself."""
    import ray

    return Found(where, address, ray.__version__, ".".join(map(str, sys.version_info[:3])), (), here=True)


def within(seconds: float, call: Callable[[], T], where: str) -> T:
    """Call `call` and translate its errors; raise UserError after `seconds`, as Ray's own retries take longer."""
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
    """Translate an error of Ray's on attaching to a UserError."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    message = " ".join(" ".join(map(str, chain)).split())
    codes = {getattr(e, "rpc_code", None) for e in chain}
    if UNIMPLEMENTED in codes:
        return UserError("the server at this address is not a Ray cluster", where=where, fix=EXAMPLE)
    if UNAUTHENTICATED in codes or "uthentication" in message:
        return UserError(
            "the Ray cluster asks for its token",
            where=where,
            fix="set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH as on its head",
        )
    if "ersion mismatch" in message:
        return UserError(message, where=where, fix="install the same Ray and Python here and on the cluster")
    return UserError(f"cannot attach to the Ray cluster: {message[:500]}", where=where, fix=ON_A_NODE)


def check_versions(found: Found) -> None:
    """Raise UserError unless the cluster has this process's Ray and Python, patch included: functions are pickled."""
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
    """Raise UserError unless this machine is a node of the cluster: Ray would search for one for a minute."""
    if not found.here:
        what = f"this machine is not a node of the cluster; its nodes: {', '.join(found.nodes) or 'none'}"
        raise UserError(what, where=found.where, fix=ON_A_NODE)


def runtime_env(config: RayConfig, worker_env: Mapping[str, str]) -> dict[str, Any]:
    """Build the runtime environment of this job's workers: the project's code, and variables.

    Ray names the package by its content, and sends it again only after a change. Inside a Ray job the job's own
    environment has priority: Ray refuses two that set the same.
    """
    missing = [name for name in config.env if name not in os.environ]
    if missing:
        raise SettingsError(f"{missing[0]} is not set in this process", where="ray.env", fix="set it, or leave it out")
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}").get("runtime_env") or {}
    variables = {**worker_env, **{name: os.environ[name] for name in config.env}}
    environment: dict[str, Any] = {
        "env_vars": {name: value for name, value in variables.items() if name not in job.get("env_vars", {})}
    }
    if "working_dir" not in job:
        others = sorted(path.name for path in PROJECT.iterdir() if path.name not in CODE)
        environment |= {"working_dir": str(PROJECT), "excludes": [*(f"/{name}" for name in others), "__pycache__"]}
    return environment
