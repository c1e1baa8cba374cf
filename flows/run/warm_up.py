"""What a run will need, started in the background before it begins."""

from __future__ import annotations

import threading
from contextlib import suppress

from tasks.core.stage import HasDigest, stage_key
from tasks.core.storage.opening import open_store
from tasks.engines import cluster, tracking
from tasks.settings import Settings
from tasks.stages.ingest.stage import ingest


def warm_up(settings: Settings, source: HasDigest) -> None:
    """Start what a run on this input will need, in the background, while Prefect starts: Ray and MLflow's database."""
    store = open_store(settings.storage)

    def start() -> None:
        # Whatever goes wrong here goes wrong again, and is reported, where the run needs it.
        with suppress(Exception):
            if not store.holds("ingest", stage_key(ingest, [source], settings.ingest)):
                cluster.start(settings.ray)
        with suppress(Exception):
            tracking.connect(tracking.tracking_uri(settings.tracking)).search_experiments(max_results=1)

    threading.Thread(target=start, name="warm-up", daemon=True).start()
