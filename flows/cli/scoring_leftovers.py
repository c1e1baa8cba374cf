"""Find what `raymill score` keeps below storage.root and nothing needs any more."""

from __future__ import annotations

import time
from pathlib import Path

from flows.cli.snapshots import Removal, plan_gc, size_of, store_of
from flows.run.scoring import for_scoring, model_copies, models_folder
from flows.run.served_last import served_last
from flows.run.watched_nights import open_nights
from tasks.settings import Settings

DAY_S = 86_400.0  # a copy of a model that was used since then may be at work


def plan_gc_of_scoring(settings: Settings, *, damaged: bool = False, idle: bool = True) -> list[Removal]:
    """List the snapshots of scoring runs to remove, as `plan_gc` does, and the copies of models by which none was made.

    A copy that is gone is fetched again when it is wanted; what `raymill serve` served last stays, for a start without
    the registry. Predictions of late nights whose stars have not all come in are kept.
    """
    own = for_scoring(settings, None, None)
    removals: list[Removal] = []
    used = set(served_last(models_folder(own)))
    if own.storage.path.exists():
        waiting = {night.predictions for night in open_nights(own.storage.path)}
        removals = plan_gc(own, damaged=damaged, spared=waiting, idle=idle)
        gone = {removal.path for removal in removals}
        made = [s.facts for s in store_of(own) if s.stage == "score" and Path(s.folder) not in gone]
        used |= {(str(facts["model"]), str(facts["version"])) for facts in made}
    spared = tuple(f"{name}-{version}-" for name, version in used)
    for copy in model_copies(own):
        is_used = copy.parent == models_folder(own) and copy.suffix != ".draft" and copy.name.startswith(spared)
        if not is_used and time.time() - copy.stat().st_mtime > DAY_S:
            removals.append(Removal(copy, "a model's copy that nothing kept was made by", size_of(copy)))
    return removals
