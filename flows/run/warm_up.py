"""Start in the background what a run needs, while Prefect is imported: Ray, a validator, warm workers, MLflow."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tasks.core.stage import HasDigest, Stage, stage_key
from tasks.core.storage.opening import open_store
from tasks.engines import cluster, expectations, tracking
from tasks.settings import Settings


@dataclass
class WarmUp:
    """A warm-up under way. `settled`: Ray and the validators are up, or will not be before they are needed."""

    settled: threading.Event = field(default_factory=threading.Event)
    validators: expectations.Validators | None = None


_UNDER_WAY: list[WarmUp] = []
_KEEPING = threading.Event()


def warm_up(settings: Settings, source: HasDigest, reads: Stage) -> None:
    """Start what a run on this input needs, unless the stage that `reads` it is done.

    Errors are left to the run, which meets and reports them again.
    """
    store = open_store(settings.storage)
    begun = WarmUp()
    _UNDER_WAY.append(begun)

    def start() -> None:
        try:
            with suppress(Exception):
                if not store.holds(reads.name, stage_key(reads, [source], settings.ingest)):
                    cluster.start(settings.ray)
                    begun.validators = expectations.Validators(settings.ray.workers)
                    cluster.warm_workers()
        finally:
            begun.settled.set()
        with suppress(Exception):
            tracking.connect(tracking.tracking_uri(settings.tracking)).search_experiments(max_results=1)

    threading.Thread(target=start, name="warm-up", daemon=True).start()


def take_validators(workers: int) -> expectations.Validators:
    """Return the validators that a warm-up has started, new ones if there was none."""
    begun = _UNDER_WAY.pop() if _UNDER_WAY else None
    if begun is not None:
        begun.settled.wait()
    return (begun and begun.validators) or expectations.Validators(workers)


def give_back(validators: expectations.Validators) -> None:
    """Close a run's validators, or keep them for the next run within `keeping_validators`."""
    if not _KEEPING.is_set():
        validators.close()
        return
    kept = WarmUp(validators=validators)
    kept.settled.set()
    _UNDER_WAY.append(kept)


@contextmanager
def keeping_validators() -> Iterator[None]:
    """Let the runs of this process, one after the other, share validators: starting some takes 4 s of CPU."""
    _KEEPING.set()
    try:
        yield
    finally:
        _KEEPING.clear()
        while _UNDER_WAY:
            begun = _UNDER_WAY.pop()
            begun.settled.wait()
            if begun.validators is not None:
                begun.validators.close()
