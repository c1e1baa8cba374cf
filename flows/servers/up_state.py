"""The state of a running `raymill up`: a lock that it holds, and a file with its services. Imports little."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tasks.core import locks
from tasks.core.errors import RunError
from tasks.core.sections import PROJECT


def state_folder() -> Path:
    """Return the folder of `up`'s lock, state and log: RAYMILL_SERVICES_DIR or data/services."""
    return Path(os.environ.get("RAYMILL_SERVICES_DIR") or PROJECT / "data" / "services").resolve()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel frees it if this process dies. Raises RunError if another process has it."""
    with locks.locked(folder / "lock", wait=False) as ours:
        if not ours:
            raise RunError(
                f"raymill is up already (process {state(folder).get('pid', '?')})",
                where=str(folder),
                fix="raymill status shows it, raymill down stops it",
            )
        yield


def is_up(folder: Path) -> bool:
    try:
        with (folder / "lock").open("a") as file:
            return not locks.take(file, wait=False, shared=True)  # shared: two who ask at once do not see each other
    except OSError:
        return False


def state(folder: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        saved = json.loads((folder / "state.json").read_text())
        return saved if isinstance(saved, dict) else {}
    return {}


def use_what_is_up() -> None:
    """Point this process at the servers of a running `up`, with its password, unless its variables name others."""
    folder = state_folder()
    if not (folder / "state.json").exists() or not is_up(folder):
        return
    services = state(folder).get("services", {})
    if url := services.get("prefect", {}).get("url"):
        os.environ.setdefault("PREFECT_API_URL", f"{url}/api")
    if url := services.get("mlflow", {}).get("url"):
        os.environ.setdefault("MLFLOW_TRACKING_URI", url)
    if auth := os.environ.get("RAYMILL__SERVICES__AUTH"):
        for name, value in credentials(auth).items():
            os.environ.setdefault(name, value)


def credentials(auth: str) -> dict[str, str]:
    """Return the variables with which Prefect's and MLflow's clients authenticate; auth: user:password."""
    user, _, password = auth.partition(":")
    mlflow = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
    return {"PREFECT_API_AUTH_STRING": auth, **mlflow}
