"""The services of `raymill up` (a Prefect server, an MLflow server, a worker): commands, variables and addresses.

Secrets are passed in environment variables only: every user of the machine can read command lines.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import Request, urlopen

from flows.servers.tether import END_WITH_PARENT
from flows.servers.up_state import credentials
from tasks.core.errors import SettingsError
from tasks.core.sections import PROJECT, ServicesConfig
from tasks.core.settings import ENV_PREFIX
from tasks.settings import Settings

# Variables in the environment of every process below `up`, even Ray's workers: the state folder and the service's name.
MARK, MARK_SERVICE = "RAYMILL_UP", "RAYMILL_UP_SERVICE"
TETHER = END_WITH_PARENT + "os.execv(sys.argv[1], sys.argv[1:])"


@dataclass(frozen=True)
class Service:
    """A process to keep running. url: for a browser. health: an address that answers 200 if the service is well."""

    name: str
    arguments: Sequence[str]
    env: dict[str, str] = field(default_factory=dict)
    url: str = ""
    health: str = ""
    authorization: str = ""

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-c", TETHER, sys.executable, *self.arguments]

    def problem(self, timeout_s: float) -> str:
        """Return why `health` does not answer 200; "" if it does."""
        return answers(self.health, self.authorization, timeout_s)


def answers(url: str, authorization: str, timeout_s: float) -> str:
    """Return why this address does not answer 200; "" if it does."""
    request = Request(url, headers={"Authorization": authorization} if authorization else {})
    try:
        with urlopen(request, timeout=timeout_s) as answer:
            return "" if answer.status == 200 else f"it answers {answer.status}"
    except OSError as error:  # HTTPError among them
        return str(getattr(error, "reason", None) or error)


def plan(settings: Settings, overrides: Sequence[str], profile: str | None, folder: Path) -> list[Service]:
    """Return the services in starting order. Raises SettingsError if others could use them without a password.

    A server that is configured already (PREFECT_API_URL, a tracking.uri of http) is used and not started.
    """
    config = settings.services
    check_access(config)
    authorization = basic(config)
    shared = {MARK: str(folder), "PYTHONUNBUFFERED": "1", "PREFECT_LOGGING_LEVEL": "INFO", "PYTHONWARNINGS": "ignore"}
    services = []
    api = os.environ.get("PREFECT_API_URL", "")
    if not api:
        api = f"http://{reached_at(config.host)}:{config.prefect_port}/api"
        services.append(_prefect(config, api, shared, authorization))
    tracking = settings.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not tracking.startswith(("http://", "https://")):
        database = config.mlflow_database.get_secret_value() if config.mlflow_database else tracking
        tracking = f"http://{reached_at(config.host)}:{config.mlflow_port}"
        services.append(_mlflow(config, database, tracking, shared, authorization, folder))
    env = {
        **shared,
        **clients(config, api),
        f"{ENV_PREFIX}TRACKING__URI": tracking,
        "PREFECT_WORKER_QUERY_SECONDS": str(config.poll_seconds),
        **{variable_of(o): o.partition("=")[2] for o in overrides if not o.startswith("tracking.uri=")},
        **({"RAYMILL_PROFILE": profile} if profile else {}),
    }
    arguments = ["-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", "raymill-up"]
    services.append(Service("worker", [*arguments, "--install-policy", "never"], env))
    return services


POOL = "raymill"  # the work pool that prefect.yaml names


def clients(config: ServicesConfig, api: str) -> dict[str, str]:
    """Return the variables with which Prefect's and MLflow's clients find and enter Prefect's server and MLflow."""
    return {"PREFECT_API_URL": api, **(credentials(config.auth.get_secret_value()) if config.auth else {})}


def _prefect(config: ServicesConfig, api: str, shared: dict[str, str], authorization: str) -> Service:
    env = {
        **shared,
        "PREFECT_API_URL": api,
        "PREFECT_UI_API_URL": "/api",
        "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    if config.prefect_database:
        env["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = config.prefect_database.get_secret_value()
    if config.auth:
        env["PREFECT_SERVER_API_AUTH_STRING"] = config.auth.get_secret_value()
    arguments = ["-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", "--log-level", "warning"]
    arguments += ["--host", config.host, "--port", str(config.prefect_port)]
    # `ready` checks the database, too.
    return Service("prefect", arguments, env, api.removesuffix("/api"), f"{api}/ready", authorization)


def _mlflow(
    config: ServicesConfig, database: str, url: str, shared: dict[str, str], authorization: str, folder: Path
) -> Service:
    env = {
        **shared,
        "MLFLOW_BACKEND_STORE_URI": database or f"sqlite:///{PROJECT / 'mlruns' / 'mlflow.db'}",
        # MLflow's job execution (to evaluate language models) would start four more processes.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    arguments = ["-m", "mlflow", "server", "--host", config.host, "--port", str(config.mlflow_port), "--workers", "1"]
    artifacts = config.mlflow_artifacts or (PROJECT / "mlruns" / "artifacts").as_uri()
    # Clients write artifacts directly to the folder or bucket, as `raymill run` without a server does.
    arguments += ["--default-artifact-root", artifacts, "--no-serve-artifacts", "--uvicorn-opts", "--log-level warning"]
    if not is_loopback(config.host):
        arguments += ["--allowed-hosts", ",".join([f"{config.host}:{config.mlflow_port}", *config.allowed_hosts])]
    if config.auth:
        arguments += ["--app-name", "basic-auth"]
        env |= _mlflow_auth(config, folder)
    probe = f"{url}/api/2.0/mlflow/experiments/search?max_results=1"
    return Service("mlflow", arguments, env, url, probe, authorization)


def _mlflow_auth(config: ServicesConfig, folder: Path) -> dict[str, str]:
    """Return the variables of MLflow's basic authentication, whose users are stored in the state folder."""
    from importlib.util import find_spec

    if find_spec("flask_wtf") is None:
        raise SettingsError(
            "MLflow needs the package Flask-WTF for passwords",
            where="services.auth",
            fix='pip install --constraint constraints.txt --editable ".[auth]"',
        )
    assert config.auth is not None
    user, _, password = config.auth.get_secret_value().partition(":")
    folder.mkdir(parents=True, exist_ok=True)
    key, ini = folder / "mlflow_secret", folder / "mlflow_auth.ini"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_text(secrets.token_hex(32))
    # MLflow reads the password only when it creates its first user, so each password gets a users file of its own.
    mark = hmac.digest(key.read_bytes(), f"{user}:{password}".encode(), "sha256").hex()[:12]
    ini.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder / f'mlflow_users_{mark}.db'}\n"
        f"admin_username = {user}\nauthorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(ini),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": key.read_text(),
    }


def check_access(config: ServicesConfig) -> None:
    """Raise SettingsError if anybody on the network could use the servers without a password."""
    if is_loopback(config.host):
        return
    if config.auth is None:
        raise SettingsError(
            f"services.host is {config.host}, where others can reach it, and no password is set",
            where="services",
            fix="set RAYMILL__SERVICES__AUTH=user:password, or leave services.host at 127.0.0.1",
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def reached_at(host: str) -> str:
    """Return the host by which this machine itself reaches a server that listens at `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)


def basic(config: ServicesConfig) -> str:
    """Return the Authorization header of the configured password; "" without one."""
    if config.auth is None:
        return ""
    return "Basic " + base64.b64encode(config.auth.get_secret_value().encode()).decode()


def variable_of(override: str) -> str:
    """Return the variable of an override: RAYMILL__TUNE__TRIALS for "tune.trials=7"."""
    return ENV_PREFIX + override.partition("=")[0].strip().replace(".", "__").upper()
