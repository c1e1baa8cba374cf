"""Set environment variables for a quiet process that works offline, before Prefect and MLflow are imported."""

from __future__ import annotations

import os
import warnings

from flows.run.proxies import except_loopback
from flows.servers.heartbeat import HEARTBEATS
from tasks.core.sections import PROJECT
from tasks.engines.quiet import QUIET

# Prefect's client asks six times, with a minute of pauses between, for a task's state and then for its flow's: at its
# own 60 s for each a server that accepts connections and is silent would hold a run for a quarter of an hour.
REQUESTS = {"PREFECT_API_REQUEST_TIMEOUT": "20"}


def prepare() -> None:
    """Set the variables that are not set yet. Prefect's own files go into the project unless the user moved them."""
    for name, value in {**QUIET, **HEARTBEATS, **REQUESTS}.items():
        os.environ.setdefault(name, value)
    except_loopback()
    # requests filters this warning itself, but another thread's `catch_warnings` may undo its filter.
    warnings.filterwarnings("ignore", message="SOCKS support in urllib3")
    from flows.servers.up_state import use_what_is_up

    use_what_is_up()
    if "PREFECT_API_URL" not in os.environ:
        os.environ.setdefault("PREFECT_HOME", str(PROJECT / "data" / "prefect"))
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
        os.environ.setdefault("PREFECT_LOGGING_SERVER_LEVEL", "CRITICAL")
