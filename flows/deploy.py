"""Applies prefect.yaml, and the automation that ends runs nobody hears of: `raymill up` runs it as a command."""

from __future__ import annotations

import sys


def main() -> int:
    """Deployments by Prefect's own command, in this process, then the automation. Returns the command's status."""
    from prefect.cli import app
    from prefect.client.orchestration import get_client

    from flows.zombies import ensure_automation

    sys.argv[1:] = ["--no-prompt", "deploy", "--all"]  # no prompt: what prefect.yaml says is meant
    try:
        app()
    except SystemExit as ended:
        if ended.code:
            return int(ended.code)
    with get_client(sync_client=True) as client:
        ensure_automation(client)
    return 0


if __name__ == "__main__":
    sys.exit(main())
