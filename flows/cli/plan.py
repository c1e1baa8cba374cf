"""`raymill plan`: which stages a run would reuse and which it would run, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from flows import graph
from flows.cli.options import escaped
from flows.cli.source_lines import print_source
from flows.cli.tables import compact_table
from flows.run.planning import StagePlan, plan
from tasks.core.storage.opening import open_store
from tasks.settings import Settings

SHOWN = 5  # changes of a stage that are printed
STYLES = {"reused": "dim", "runs": "bold"}


def plan_run(settings: Settings, console: Console, until: str | None) -> list[StagePlan]:
    """Plan a run on the input of the settings, whose files are printed as `raymill run` prints them."""
    given = graph.find_given(settings, until)
    for source in filter(None, (given.source, given.metadata)):
        print_source(console, source, settings.data.dataset)
    return plan(settings, given, open_store(settings.storage), until)


def print_plan(console: Console, plans: Sequence[StagePlan], *, shown: int = SHOWN) -> None:
    """Print a row for each stage, with its snapshot if it is reused and the reasons if it is not."""
    table = compact_table(None, {"stage": "left", "tonight": "left", "why": "left"})
    for row in plans:
        table.add_row(
            row.stage,
            row.tonight if row.tonight != "registry" else "–",
            escaped("\n".join(_why(row, shown))),
            style=STYLES.get(row.tonight),
        )
    console.print(table, highlight=False)
    console.print()
    counts = Counter(row.tonight for row in plans)
    if counts["runs"] + counts["may run"] == 0:
        console.print("Nothing has changed: every stage would be reused.", highlight=False)
        return
    parts = [f"{counts['runs']} run", f"{counts['may run']} may run", f"{counts['reused']} are reused"]
    console.print(f"Of {len(plans)} stages {', '.join(parts)}.", highlight=False)
    if counts["may run"]:
        console.print("One that may run is reused if what it is made from comes out as before.", highlight=False)
    runs = [run for row in plans if (run := row.run)]
    if runs:
        console.print(f"Changes are those since run {max(runs)}.", highlight=False)


def _why(row: StagePlan, shown: int) -> list[str]:
    if row.tonight == "reused":
        return [row.digest[:8]]
    if row.tonight == "registry":
        return ["compares the model with those in the registry, in every run"]
    lines = [change.says for change in row.changes[:shown]]
    if (more := len(row.changes) - shown) > 0:
        lines.append(f"and {more} more changes: --json lists them")
    if row.parts and row.parts[0]:
        lines.append(f"{row.parts[0]:,} of {row.parts[1]:,} parts are taken over from earlier snapshots")
    if row.waits_for:
        lines.append(f"made from {', '.join(dict.fromkeys(row.waits_for))}")
    return [*([row.note] if row.note else []), *lines]
