"""Apply prefect.yaml and set up its work pool and the automation that marks silent runs as crashed.

`raymill up` runs it as a command while the server itself starts.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from contextlib import suppress
from typing import Any

from flows.servers import engine
from flows.servers.services import POOL

SERVER_S, POLL_S = 150.0, 0.1  # longer than `up` waits for its server
POOL_READY = "the work pool exists"  # printed on a line of its own: a worker may start from then on


def main() -> int:
    """Create the pool, the deployments (by Prefect's own command, in this process) and the automation.

    Returns the exit status of Prefect's command.
    """
    gc.disable()
    from prefect.cli import app
    from prefect.client.orchestration import get_client

    import flows.bench
    import flows.etl_train
    import flows.score  # noqa: F401  # while the server starts: Prefect's command finds their imports cached
    from flows.servers.heartbeat import ensure_automation

    with get_client(sync_client=True) as client:
        wait_for_server(client)
        ensure_pool(client)
    print(POOL_READY, flush=True)
    os.environ[engine.VARIABLE] = engine.command()
    sys.argv[1:] = ["--no-prompt", "deploy", "--all"]  # no prompt: prefect.yaml needs no confirmation
    try:
        app()
    except SystemExit as ended:
        if ended.code:
            return int(ended.code)
    with get_client(sync_client=True) as client:
        ensure_automation(client)
    return 0


def wait_for_server(client: Any) -> None:
    """Wait until the server answers. Raises its last error if that takes too long."""
    deadline = time.monotonic() + SERVER_S
    while problem := client.api_healthcheck():
        if time.monotonic() > deadline:
            raise problem
        time.sleep(POLL_S)


def ensure_pool(client: Any) -> None:
    """Create the work pool if it is missing, before the worker starts, which would create it, too."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type=ProcessWorker.type, base_job_template=template))


if __name__ == "__main__":
    sys.exit(main())
