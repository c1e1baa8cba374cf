"""`raymill gc`: list what runs have left and nothing needs any more, and remove it."""

from __future__ import annotations

from contextlib import ExitStack

from rich.console import Console

from flows.cli import snapshots
from flows.cli.scoring_leftovers import plan_gc_of_scoring
from flows.run.at_work import nobody_at_work
from flows.run.scoring import for_scoring
from tasks.settings import Settings


def remove_leftovers(settings: Settings, console: Console, *, damaged: bool, dry_run: bool) -> None:
    """Remove what `plan_gc` lists, of runs that train and of those that score, while no run begins."""
    scoring = for_scoring(settings, None, None)
    with ExitStack() as held:
        idle = [held.enter_context(nobody_at_work(s.storage.path)) for s in (settings, scoring)]
        for root in (s.storage.path for s, nobody in zip((settings, scoring), idle, strict=True) if not nobody):
            console.print(
                f"a run is at work in {root}: its snapshots stay; start raymill gc again when it has ended",
                highlight=False,
                soft_wrap=True,
            )
        removals = [
            *snapshots.plan_gc(settings, damaged=damaged, idle=idle[0]),
            *plan_gc_of_scoring(settings, damaged=damaged, idle=idle[1]),
        ]
        for removal in removals:
            what = f"{removal.path}  {removal.size / 1e6:.1f} MB  {removal.why}"
            console.print(what, highlight=False, soft_wrap=True)
            if not dry_run:
                snapshots.remove(removal)
    verb = "would be freed" if dry_run else "freed"
    console.print(f"{len(removals)} removed, {sum(r.size for r in removals) / 1e6:.1f} MB {verb}", highlight=False)
