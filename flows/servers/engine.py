"""Start a flow run on a worker: Prefect's engine in this process (`python -m flows.servers.engine`).

Without a command, a process worker starts Prefect twice for each run, once to find the flow's folder and once for the
flow; with this one it starts a single process, which saves 2.6 s. The garbage collector stays off until all is imported
(`collect_again`), since imported objects are never freed: another 0.7 s.
"""

from __future__ import annotations

import gc
import runpy
import shlex
import sys

# prefect.yaml sets the deployments' job variable `command` to its value. If unset, Prefect starts runs in its own way.
VARIABLE = "RAYMILL_ENGINE"


def command() -> str:
    """Return the command by which a worker on this machine starts flow runs, with this process's Python."""
    return shlex.join([sys.executable, "-m", "flows.servers.engine"])


def collect_again() -> None:
    """Turn the garbage collector on again after `main` turned it off; it skips the objects that exist now."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def main() -> None:
    """Execute the flow run that the environment names."""
    gc.disable()
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
