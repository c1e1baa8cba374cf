"""Links on a run's page in Prefect, as artifacts: the MLflow run, Ray's dashboard, the report, the Data Docs."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import urlsplit

from tasks.core.secrets import address
from tasks.engines import ray_private
from tasks.engines.tracking import Tracker


def link(key: str, url: str | None, text: str) -> None:
    """Create the link artifact, if there is an address. The run goes on without it if Prefect does not answer."""
    if not url:
        return
    from prefect.artifacts import create_link_artifact

    try:
        create_link_artifact(key=key, link=url, link_text=text)
    except Exception as error:
        from prefect.logging import get_logger

        get_logger("raymill").warning("no link to the %s: %s", text, type(error).__name__)


def mlflow_page(tracker: Tracker) -> str | None:
    """Return the address of the run's page; None unless MLflow is a server."""
    if urlsplit(tracker.uri).scheme not in ("http", "https"):
        return None
    return f"{address(tracker.uri).rstrip('/')}/#/experiments/{tracker.experiment_id}/runs/{tracker.run_id}"


def ray_dashboard() -> str | None:
    """Return the address of Ray's dashboard; None without one, as in a local session."""
    with suppress(Exception):
        if url := ray_private.dashboard_url():
            return address(url if "://" in url else f"http://{url}")
    return None
