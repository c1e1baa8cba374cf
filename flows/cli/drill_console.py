"""What `raymill drill` prints: its points, each result, the certificate."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from rich.console import Console
from rich.text import Text

from flows.cli.tables import NotedRow, compact_table, noted_table
from flows.drill.certificate import Certificate, cells
from flows.drill.points import Point, points
from flows.drill.runner import Drill
from tasks.core import locks
from tasks.core.errors import RunError, UserError
from tasks.core.sections import PROJECT

ROWS = 400  # of the synthetic reviews
FOLDER = PROJECT / "data" / "drill"
MARK = "DRILL"  # the file that marks a drill's folder


def chosen(patterns: Sequence[str]) -> list[Point]:
    """Return the points whose names match one of the globs; all if there is none. Raises UserError if none does."""
    found = [p for p in points() if not patterns or any(fnmatchcase(p.name, pattern) for pattern in patterns)]
    if not found:
        raise UserError(
            f"no fault point is named {' or '.join(patterns)}", where="--points", fix="raymill drill --list names them"
        )
    return found


def print_points(console: Console, found: Sequence[Point]) -> None:
    table = compact_table(None, {"point": "left", "what happens": "left"})
    for point in found:
        table.add_row(Text(point.name), point.says)  # text: Rich makes a picture of `:train:`
    console.print(table)
    console.print(f"{len(found)} fault points", highlight=False)


def claim(folder: Path) -> None:
    """Mark a folder as the drill's, which removes old results there. Raises UserError for one with other files."""
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise UserError(
            "this folder holds files that are not a drill's",
            where=str(folder),
            fix="give --out an empty folder, or one that is not there yet",
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text("raymill drill works here, and removes what it finds\n")


def synthetic(folder: Path) -> list[str]:
    """Make reviews for a drill unless they are there; return the arguments of `raymill run` that read them."""
    from tasks.sources.synth import synthesize

    if not (folder / "reviews").exists():
        synthesize(ROWS, 7, folder / "reviews")
    return ["--input", str(folder / "reviews"), "--dataset", "amazon-us"]


def tried(console: Console, work: Drill, found: Sequence[Point], described: str) -> Certificate:
    """Try the points that have no result yet, and return the certificate. Raises RunError if another drill is on."""
    work.folder.mkdir(parents=True, exist_ok=True)
    with locks.locked(work.folder / "lock", wait=False) as ours:
        if not ours:
            raise RunError("a drill is on in this folder", where=str(work.folder), fix="wait for it, or give --out")
        if work.plan():
            console.print("going on with the results of an earlier drill", highlight=False)
        todo = [point for point in found if not work.is_settled(point)]
        if todo:
            with work.serving():
                console.print("reference run …", highlight=False)
                work.refer(found)
                for number, point in enumerate(todo, 1):
                    result = work.strike(point)
                    sign = "[green]✓[/]" if result.passed else "[yellow]-[/]" if result.skipped else "[red]✗[/]"
                    text = f"{result.outcome} {result.recovery_s:.1f} s" if result.passed else result.reason
                    console.print(sign, end=" ")
                    line = Text(f"{number}/{len(todo)} {point.name}  {text}")
                    console.print(line, highlight=False, soft_wrap=True)
        results = [(point, work.result(point)) for point in found]
        return Certificate(
            [result for _, result in results if result], [point.name for point, r in results if r is None], described
        )


def print_certificate(console: Console, certificate: Certificate, files: Sequence[Path]) -> None:
    rows = [NotedRow([r.point, *_short(cells(r))], _notes(r.passed, r.reason)) for r in certificate.results]
    console.print(noted_table(["point", "outcome", "s", "orphans"], rows, right={"s", "orphans"}))
    console.print()
    facts = compact_table(None, {"total": "left", "": "left"})
    for row in certificate.facts():
        facts.add_row(*row)
    console.print(facts)
    console.print()
    style = "green" if certificate.holds else "red"
    console.print(certificate.verdict, style=style, highlight=False)
    for file in files:
        console.print(str(file), highlight=False, soft_wrap=True)


def _short(shown: Sequence[str]) -> list[str]:
    return [shown[0].partition(":")[0], *shown[1:]]


def _notes(passed: bool, reason: str) -> list[str]:
    return [] if passed or not reason else [reason]
