"""Applies prefect.yaml, and the automation that ends runs nobody hears of; `raymill up` runs `python -m flows.deploy`."""

from __future__ import annotations

import subprocess
import sys

from tasks.core.sections import PROJECT


def main() -> int:
    """Deployments by Prefect's own command: its status."""
    # No prompt: what prefect.yaml says is meant.
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    return subprocess.run(command, cwd=PROJECT, stdin=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    sys.exit(main())
