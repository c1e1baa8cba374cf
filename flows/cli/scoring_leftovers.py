"""Find what `raymill score` keeps below storage.root and nothing needs any more."""

from __future__ import annotations

import time
from pathlib import Path

from flows.cli.snapshots import Removal, plan_gc, size_of, store_of
from flows.run.scoring import for_scoring, models_folder
from flows.run.watched_nights import open_nights
from tasks.settings import Settings

DAY_S = 86_400.0  # a copy of a model that was used since then may be at work


def plan_gc_of_scoring(settings: Settings, *, damaged: bool = False, idle: bool = True) -> list[Removal]:
    """List the snapshots of scoring runs to remove, as `plan_gc` does, and the copies of models by which none was made.

    A copy that is gone is fetched again when it is wanted. Predictions of late nights whose stars have not all come in
    are kept.
    """
    own = for_scoring(settings, None, None)
    if not own.storage.path.exists():
        return []
    waiting = {night.predictions for night in open_nights(own.storage.path)}
    removals = plan_gc(own, damaged=damaged, spared=waiting, idle=idle)
    gone = {removal.path for removal in removals}
    made = [s.facts for s in store_of(own) if s.stage == "score" and Path(s.folder) not in gone]
    used = tuple(f"{facts['model']}-{facts['version']}-" for facts in made)
    for folder in sorted(models_folder(own).glob("*")):
        if not folder.name.startswith(used) and time.time() - folder.stat().st_mtime > DAY_S:
            removals.append(Removal(folder, "a model's copy that no kept run of scoring used", size_of(folder)))
    return removals
