"""Remove Prefect's flow runs of raymill, with their tasks and logs, that ended before `storage.keep_days` ago.

Other projects on the server may have flows of the same names: ours are runs with the tag of our deployments, and those
that records of runs or MLflow name.
Kept are those that have not ended, the newest of each flow and data set, and the newest that completed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from flows.servers.heartbeat import FLOWS
from flows.servers.prefect_http import ask

TAG = "raymill"  # of the deployments in prefect.yaml, and so of their runs
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
PAGE, AT_ONCE = 200, 50  # flow runs of one answer, and of one request to delete


def old_flow_runs(
    api: str, authorization: str, before: datetime, kept: Collection[str], ours: Collection[str]
) -> list[Mapping[str, Any]]:
    """List the flow runs to remove, the newest first.

    kept: ids of runs to keep in any case. ours: ids of runs that are known to be raymill's, though without its tag.
    """
    seen: set[tuple[str, str, str]] = set()
    found = []
    for run in _ended_runs(api, authorization):
        if TAG not in (run.get("tags") or ()) and run["id"] not in ours:
            continue
        parameters = run.get("parameters") or {}
        of = (str(run["flow_id"]), str(parameters.get("dataset") or _dataset(run)))
        first = (*of, "any") not in seen or (run["state_type"] == "COMPLETED" and (*of, "completed") not in seen)
        seen |= {(*of, "any")} | ({(*of, "completed")} if run["state_type"] == "COMPLETED" else set())
        ended = run.get("end_time")
        if not first and run["id"] not in kept and ended and datetime.fromisoformat(ended) < before:
            found.append(run)
    return found


def _dataset(run: Mapping[str, Any]) -> str:
    """Return the data set in the name of a run of `etl-train`; other names say nothing."""
    flow, _, dataset = str(run.get("name") or "").partition(" ")
    return dataset if flow == "etl-train" else ""


def _ended_runs(api: str, authorization: str) -> Iterator[Mapping[str, Any]]:
    query = {
        "flows": {"name": {"any_": list(FLOWS)}},
        "flow_runs": {"state": {"type": {"any_": list(ENDED)}}},
        "sort": "END_TIME_DESC",
        "limit": PAGE,
    }
    offset = 0
    while page := ask(api, authorization, "flow_runs/filter", {**query, "offset": offset}):
        yield from page
        offset += len(page)


def remove(api: str, authorization: str, ids: Sequence[str]) -> int:
    """Delete these flow runs; the server removes their logs soon after. Returns how many were deleted."""
    deleted = 0
    for start in range(0, len(ids), AT_ONCE):
        query = {"flow_runs": {"id": {"any_": list(ids[start : start + AT_ONCE])}}, "limit": AT_ONCE}
        deleted += len(ask(api, authorization, "flow_runs/bulk_delete", query)["deleted"])
    return deleted
