"""Keep requests to this machine away from a proxy, which cannot reach loopback here, or answers in its place."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def except_loopback(environ: MutableMapping[str, str] = os.environ) -> None:
    """Add loopback to the exceptions of the proxy in the environment, if there is one."""
    if not any(environ.get(name) for name in proxy_variables(environ)):
        return
    # Where both spellings are set, clients read the lower one first.
    shared = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    for name in ("no_proxy", "NO_PROXY"):
        given = [host.strip() for host in (environ.get(name) or shared).split(",") if host.strip()]
        if "*" not in given:
            environ[name] = ",".join([*given, *(host for host in LOOPBACK if host not in given)])


def proxy_variables(environ: MutableMapping[str, str] = os.environ) -> list[str]:
    """List the variables that name a proxy."""
    names = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
    return [name for name in environ if name.lower() in names and environ[name]]
