"""Print the files of a run's input: how many are read, and each one that is not, with the reason."""

from __future__ import annotations

from rich.console import Console

from flows.cli.options import escaped
from tasks.sources import Quarantined, Source
from tasks.sources.own_profile import adaptations

SHOWN = 20  # files of a list that are printed


def print_source(console: Console, source: Source, dataset: str) -> None:
    size = sum(f.size for f in source.files)
    items = " of product metadata" if source.kind == "items" else ""
    console.print(f"{len(source.files)} file(s){items}, {size / 1e6:,.1f} MB, dataset {dataset}", highlight=False)
    for line in adaptations(source.profile, [(f.name, f.own) for f in source.files if f.own]):
        console.print(f"[yellow]note:[/] {escaped(line)}", highlight=False, soft_wrap=True)
    _print_files(console, "[yellow]not read:[/]", source.quarantined)
    _print_files(console, "[dim]left out:[/]", source.left_out)


def _print_files(console: Console, label: str, files: tuple[Quarantined, ...]) -> None:
    for file in files[:SHOWN]:
        console.print(f"{label} {escaped(f'{file.name}: {file.reason}')}", highlight=False, soft_wrap=True)
    if len(files) > SHOWN:
        console.print(f"{label} {len(files) - SHOWN:,} more, listed in the report", highlight=False)
