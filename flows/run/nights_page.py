"""The page over the nights that were scored: ROOT/score/nights.html, and a section of the report."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.run.context import Run
from flows.run.registry_events import EVENTS, SAID
from flows.run.watched_nights import SHOWN, Night, read_nights
from tasks.core.whole_files import write_whole
from tasks.engines import registry, tracking
from tasks.stages.report.nights_section import nights_page
from tasks.stages.watch.findings import Findings

PAGE = "nights.html"
CHANGES = ("promoted", "rolled-back")  # events that change the champion


def scored(run: Run, root: Path) -> dict[str, Any] | None:
    """Return what the report's section takes; None if no night of this data set and target was scored.

    root: of the scoring runs.
    """
    same = (run.record.dataset, run.record.target)
    nights = [night for night in read_nights(root) if (night.dataset, night.target) == same][:SHOWN]
    if not nights:
        return None
    return {"nights": [_shown(night) for night in nights], "promotions": _promotions(run, nights[0].model)}


def _shown(night: Night) -> dict[str, Any]:
    return {**asdict(night), "found": {**Findings().as_json(), **night.found}}


def write(run: Run, root: Path) -> Path | None:
    """Write the page into `root`, that of the scoring runs; returns where, None without any night."""
    if (shown := scored(run, root)) is None:
        return None
    page = root / PAGE
    write_whole(page, nights_page(**shown, title=f"Nights of {shown['nights'][0]['model']}"))
    return page


def _promotions(run: Run, model: str) -> list[dict[str, str]]:
    """Return the changes of the champion, the latest first; none where MLflow does not answer."""
    try:
        with tracking.reaching(run.tracker.uri):
            audits = registry.history(run.tracker.client, model)
    except Exception:  # the page is no reason for a run to fail
        return []
    changes = [audit for audit in reversed(audits) if EVENTS.get(audit.action) in CHANGES]
    return [
        {
            "when": audit.when,
            "said": SAID[audit.action].format(model=model, version=audit.version, to_version=audit.to_version),
            "who": audit.who,
        }
        for audit in changes[:SHOWN]
    ]
