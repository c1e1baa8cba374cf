"""Environment variables that keep libraries quiet: no telemetry, no downloads, no idle messages.

Libraries read them when they are imported or start a process, so they are set before.
"""

from __future__ import annotations

# What Ray's workers need of it.
OFFLINE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "GX_ANALYTICS_ENABLED": "False",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
QUIET = {
    **OFFLINE,
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "TRANSFORMERS_VERBOSITY": "error",
    # Below `uv run`, Ray would start each worker by `uv run`, in a copy of the project: it hangs where uv cannot build
    # the environment again, and has none of what is installed beside the lock file.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
