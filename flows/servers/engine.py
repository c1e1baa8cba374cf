"""Starts a flow run on a worker: Prefect's engine in this very process (`python -m flows.servers.engine`).

A process worker that is told no command starts Prefect twice for each run, once to find the flow's folder and once for
the flow; told one, it starts that alone, 2.6 s sooner. The collector of cycles stays off until all is imported
(`collect_again`), since what an import makes is there to stay: 0.7 s.
"""

from __future__ import annotations

import gc
import runpy
import shlex
import sys

# prefect.yaml has its value for the deployments' job variable `command`. Unset, Prefect starts runs in its own way.
VARIABLE = "RAYMILL_ENGINE"


def command() -> str:
    """The command by which a worker on this machine starts flow runs with this very Python."""
    return shlex.join([sys.executable, "-m", "flows.servers.engine"])


def collect_again() -> None:
    """The end of `main`'s pause: what is there now is not looked at again."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def main() -> None:
    """Run the flow run that the environment names."""
    gc.disable()
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
