"""`raymill ablate`: run the pipeline until `split`, then measure what each group of features is worth."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from flows.cli.launch import launch
from flows.cli.tables import compact_table
from flows.graph import find_given
from tasks.core.snapshots import Snapshot
from tasks.core.storage.opening import open_store
from tasks.settings import Settings


def ablate(settings: Settings, console: Console) -> dict[str, Any]:
    """Return the result of `tasks.stages.evaluate.ablation.ablate` on the splits of these settings, made if missing."""
    splits = splits_of(settings, console)
    from tasks.engines import cluster
    from tasks.stages.evaluate import ablation

    cluster.start(settings.ray)
    console.print(f"training without each of {len(splits.facts['groups'])} groups in turn", highlight=False)
    return ablation.ablate(splits, settings.train)


def splits_of(settings: Settings, console: Console) -> Snapshot:
    """Run the flow until `split`, reusing snapshots; return the splits."""
    row = launch(settings, find_given(settings, "split"), console, until="split").row("split")
    splits = open_store(settings.storage).find("split", row.key) if row else None
    assert splits is not None  # it was committed a moment ago
    return splits


def print_worths(console: Console, result: dict[str, Any]) -> None:
    """Print a row per group, the most useful group first."""
    numbers = ("features", result["metric"], "difference", "95% interval")
    table = compact_table(
        f"{result['metric']} of {result['target']} on {result['rows']:,} validation rows; "
        f"with all {result['features']} features {result['loss']:.4f}",
        {"without": "left", **dict.fromkeys(numbers, "right"), "": "left"},
    )
    for w in result["groups"]:
        sure = "helps" if w["low"] > 0 else "harms" if w["high"] < 0 else "cannot tell"
        interval = f"{w['low']:+.4f} to {w['high']:+.4f}"
        table.add_row(w["group"], str(w["features"]), f"{w['without']:.4f}", f"{w['difference']:+.4f}", interval, sure)
    console.print(table)
