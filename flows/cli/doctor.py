"""`raymill doctor`: find what is missing or odd on this machine, and suggest fixes."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

from flows.run.proxies import proxy_variables
from tasks.core.errors import RaymillError, RegistryError
from tasks.core.secrets import masked
from tasks.settings import Settings, load_settings

GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """The result of one check. level: "ok", "odd" (works, but not well) or "bad" (will fail)."""

    level: str
    what: str
    fix: str = ""


def examine() -> Iterator[Finding]:
    """Run all checks; nothing is started or changed."""
    yield _python()
    yield from _versions()
    yield _memory()
    yield _cores()
    try:
        settings = load_settings()
    except RaymillError as error:
        yield Finding("bad", f"settings: {error.what}", error.fix)
        return
    yield _shared_memory(settings)
    yield _disk(settings)
    yield _ray(settings)
    yield from _proxy()
    yield from _ports()
    yield _tracking(settings)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        return Finding("ok", f"Python {version}")
    return Finding(
        "bad", f"Python {version} is not supported", "use 3.11 or 3.12: rm -rf .venv; make install PYTHON=python3.11"
    )


def _versions() -> Iterator[Finding]:
    """Report the project's requirements that the environment does not meet."""
    from packaging.requirements import Requirement

    broken = 0
    for text in metadata.requires("raymill") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            broken += 1
            yield Finding("bad", f"{requirement.name} is not installed", "make install")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            broken += 1
            yield Finding("bad", f"{requirement.name} {installed} does not fit {requirement.specifier}", "make install")
    if not broken:
        yield Finding("ok", "all required packages are installed and fit together")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    text = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB memory available"
    if memory.available < 4 * GIB:
        return Finding("odd", text, "close other programs; a run on 50,000 reviews needs about 4 GiB")
    return Finding("ok", text)


def _cores() -> Finding:
    cores = os.cpu_count() or 1
    return Finding("ok" if cores > 1 else "odd", f"{cores} core(s)", "" if cores > 1 else "works, but slowly")


def _shared_memory(settings: Settings) -> Finding:
    shm = Path("/dev/shm")
    if not shm.exists():
        return Finding("odd", "/dev/shm is missing: Ray's object store falls back to /tmp, slower", "mount it as tmpfs")
    free, needed = shutil.disk_usage(shm).free, settings.ray.object_store_mb << 20
    text = f"/dev/shm has {free / GIB:.1f} GiB free, the object store takes {needed / GIB:.1f}"
    if free < needed:
        return Finding("bad", text, "in a container: --shm-size=2g; or lower ray.object_store_mb")
    return Finding("ok", text)


def _disk(settings: Settings) -> Finding:
    root = settings.storage.path
    existing = next(p for p in (root, *root.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    text = f"{free / GIB:.1f} GiB free for {root}"
    if not os.access(existing, os.W_OK):
        return Finding("bad", f"{existing} is not writable", "change its permissions or storage.root")
    return Finding("odd", text, "raymill gc frees what nothing refers to") if free < 5 * GIB else Finding("ok", text)


def _ray(settings: Settings) -> Finding:
    from tasks.engines import cluster_connect

    try:
        if remote := cluster_connect.examine(settings.ray):
            cluster_connect.check_is_node(remote)
            about = f"{len(remote.nodes)} node(s), Ray {remote.ray}, Python {remote.python}, the same as here"
            return Finding("ok", f"Ray: the cluster at {remote.address} answers: {about}")
    except RaymillError as error:
        return Finding("bad", f"Ray: {error.where}: {error.what}", error.fix)
    raylets = [p.pid for p in psutil.process_iter(["name"]) if p.info["name"] == "raylet"]
    current = Path("/tmp/ray/ray_current_cluster")
    if raylets:
        pids = ", ".join(map(str, raylets))
        return Finding(
            "odd", f"Ray is running already (raylet {pids})", "leave it if a run is in progress, else: ray stop"
        )
    if current.exists():
        return Finding("odd", "a Ray session ended without cleaning up", f"rm {current}")
    return Finding("ok", "Ray: no session, a local one will be started on loopback")


def _proxy() -> Iterator[Finding]:
    if names := proxy_variables():
        hosts = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        yield Finding(
            "ok", f"a proxy ({', '.join(sorted(names))}), not for {', '.join(hosts.split(',')) or 'any host'}"
        )


def _ports() -> Iterator[Finding]:
    for port, name in ((4200, "Prefect"), (5000, "MLflow")):
        with socket.socket() as probe:
            taken = probe.connect_ex(("127.0.0.1", port)) == 0
        if taken:
            yield Finding("odd", f"port {port} ({name}'s default) is in use", f"fine if {name}'s server uses it")
        else:
            yield Finding("ok", f"port {port} is free for {name}")


def _tracking(settings: Settings) -> Finding:
    from tasks.engines.tracking import reach, tracking_uri

    uri = tracking_uri(settings.tracking)
    try:
        reach(uri)
    except RegistryError as error:
        return Finding("bad", f"MLflow: {masked(uri)}: {error.what}", error.fix)
    return Finding("ok", f"MLflow: {masked(uri)}{' answers' if uri.startswith('http') else ''}")
