"""`raymill serve`: predictions of the champion by HTTP."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import ProfileOption, SetOption, console

if TYPE_CHECKING:
    from tasks.core.sections import ServeConfig


def serve(
    model: Annotated[
        str, typer.Option(help="champion or challenger, which are followed, or a version's number.")
    ] = "champion",
    host: Annotated[str | None, typer.Option(help="Address to listen at, for serve.host.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port, for serve.port.")] = None,
    overrides: SetOption = None,
    profile: ProfileOption = None,
) -> None:
    """Predict reviews by HTTP with the champion, until Ctrl-C: POST /predict, and /docs, /healthz, /metrics.

    A version that is promoted or rolled back to takes over within seconds; no request is lost.
    """
    from tasks.core import secrets
    from tasks.engines import cluster_connect
    from tasks.engines.cluster import CLUSTER_ENV, WORKER_ENV
    from tasks.settings import load_settings

    given = [*(overrides or []), *([f"serve.host={host}"] if host else []), *([f"serve.port={port}"] if port else [])]
    settings = load_settings(profile=profile, overrides=given)
    secrets.remember(settings=settings)
    config = settings.serve
    check_access(config)
    if config.through == "process" or cluster_connect.wanted(settings.ray) is None:
        check_port(config)  # a cluster's Ray Serve may listen there already, for others too
    for name, value in {**WORKER_ENV, **CLUSTER_ENV}.items():  # before Polars and XGBoost are imported
        os.environ.setdefault(name, value)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    if config.through == "ray":
        from flows.serve.on_ray import serve as start
    else:
        from flows.serve.in_process import serve as start

    def ready(name: str, version: str) -> None:
        console.print(
            f"{name} version {version} at http://{config.host}:{config.port}: POST /predict, and /docs, /healthz, "
            "/metrics; Ctrl-C ends it", highlight=False, soft_wrap=True,
        )  # fmt: skip

    start(settings, model, ready)


def check_access(config: ServeConfig) -> None:
    """Raise SettingsError if anybody on the network could ask for predictions without a token."""
    from flows.servers.services import is_loopback
    from tasks.core.errors import SettingsError

    if config.token is None and not is_loopback(config.host):
        raise SettingsError(
            f"serve.host is {config.host}, where others can reach it, and no token is set",
            where="serve",
            fix="set RAYMILL__SERVE__TOKEN to 16 characters or more, or leave serve.host at 127.0.0.1",
        )


def check_port(config: ServeConfig) -> None:
    """Raise SettingsError if the port cannot be listened at, before anything starts."""
    from tasks.core.errors import SettingsError

    try:
        family = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((config.host, config.port))
    except OSError as error:
        raise SettingsError(
            f"cannot listen at {config.host}, port {config.port}: {error.strerror}",
            where="serve.port",
            fix="give another by --port, or stop what listens there",
        ) from None
