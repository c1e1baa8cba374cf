"""Environment variables that keep libraries quiet: no telemetry, no downloads, no idle messages.

Libraries read them at import or when they start a process, so they must be set earlier.
"""

from __future__ import annotations

# The part that Ray's workers need, too.
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
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    # Below `uv run`, Ray would start each worker by `uv run`, in a copy of the project: it hangs where uv cannot build
    # the environment again, and has none of what is installed beside the lock file.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
