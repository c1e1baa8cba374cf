"""Applies prefect.yaml, and what belongs to it on the server: the work pool, with the command that starts its runs, and
the automation that ends runs nobody hears of. `raymill up` runs it as a command while the server itself starts.
"""

from __future__ import annotations

import gc
import sys
import time
from contextlib import suppress
from typing import Any

from flows import engine
from flows.services import POOL

SERVER_S, POLL_S = 120.0, 0.1
POOL_READY = "the work pool is there"  # said on a line of its own: from then on a worker may start


def main() -> int:
    """The pool, the deployments by Prefect's own command in this process, the automation. Returns its status."""
    gc.disable()
    from prefect.cli import app
    from prefect.client.orchestration import get_client

    import flows.bench
    import flows.etl_train  # noqa: F401  # Prefect's command loads both files once more, without their imports
    from flows.zombies import ensure_automation

    with get_client(sync_client=True) as client:
        wait_for_server(client)
        ensure_pool(client, engine.command())
    print(POOL_READY, flush=True)
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
    """Until it answers; if that takes too long, what asks it next tells why."""
    deadline = time.monotonic() + SERVER_S
    while client.api_healthcheck() is not None and time.monotonic() < deadline:
        time.sleep(POLL_S)


def ensure_pool(client: Any, command: str) -> None:
    """Make the work pool where there is none, and set the command by which it starts runs.

    A deployment or a run that names one (its job variable `command`) has its own. All else that somebody set stays.
    """
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    with suppress(ObjectAlreadyExists):
        made = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=POOL, type=ProcessWorker.type, base_job_template=made))
    template = client.read_work_pool(POOL).base_job_template
    template["variables"]["properties"]["command"]["default"] = command
    client.update_work_pool(POOL, WorkPoolUpdate(base_job_template=template))


if __name__ == "__main__":
    sys.exit(main())
