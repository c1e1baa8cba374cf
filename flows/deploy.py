"""Applies prefect.yaml, and the automation that ends runs nobody hears of: `raymill up` runs it as a command."""

from __future__ import annotations

import sys
import time
from typing import Any

from flows.services import POOL

POOL_S, POLL_S = 60.0, 0.2


def main() -> int:
    """Deployments by Prefect's own command, in this process, then the automation. Returns the command's status."""
    from prefect.cli import app
    from prefect.client.orchestration import get_client

    from flows.zombies import ensure_automation

    with get_client(sync_client=True) as client:
        wait_for_pool(client)
    sys.argv[1:] = ["--no-prompt", "deploy", "--all"]  # no prompt: what prefect.yaml says is meant
    try:
        app()
    except SystemExit as ended:
        if ended.code:
            return int(ended.code)
    with get_client(sync_client=True) as client:
        ensure_automation(client)
    return 0


def wait_for_pool(client: Any) -> None:
    """Until the worker, which starts beside this, has made its work pool: Prefect refuses to deploy to none.

    If it takes too long, that refusal is what is told.
    """
    from prefect.exceptions import ObjectNotFound

    deadline = time.monotonic() + POOL_S
    while time.monotonic() < deadline:
        try:
            client.read_work_pool(POOL)
        except ObjectNotFound:
            time.sleep(POLL_S)
        else:
            return


if __name__ == "__main__":
    sys.exit(main())
