"""Applies prefect.yaml, and what belongs to it on the server: the work pool, and the automation that ends runs nobody
hears of. `raymill up` runs it as a command while the server itself starts.
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
POOL_READY = "the work pool is there"  # said on a line of its own: from then on a worker may start


def main() -> int:
    """The pool, the deployments by Prefect's own command in this process, the automation. Returns its status."""
    gc.disable()
    from prefect.cli import app
    from prefect.client.orchestration import get_client

    import flows.bench
    import flows.etl_train  # noqa: F401  # Prefect's command loads both files once more, without their imports
    from flows.servers.heartbeat import ensure_automation

    with get_client(sync_client=True) as client:
        wait_for_server(client)
        ensure_pool(client)
    print(POOL_READY, flush=True)
    os.environ[engine.VARIABLE] = engine.command()
    sys.argv[1:] = ["--no-prompt", "deploy", "--all"]  # no prompt: what prefect.yaml says is meant
    try:
        app()
    except SystemExit as ended:
        if ended.code:
            return int(ended.code)
    with get_client(sync_client=True) as client:
        ensure_automation(client)
    return 0


def wait_for_server(client: Any) -> None:
    """Until it answers. What it said last is raised if that takes too long."""
    deadline = time.monotonic() + SERVER_S
    while problem := client.api_healthcheck():
        if time.monotonic() > deadline:
            raise problem
        time.sleep(POLL_S)


def ensure_pool(client: Any) -> None:
    """Make the work pool where there is none. It is made before the worker starts, which would make it, too."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type=ProcessWorker.type, base_job_template=template))


if __name__ == "__main__":
    sys.exit(main())
