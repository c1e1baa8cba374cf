"""`raymill drill`: let every fault happen on a copy, and certify that runs resume to the same digests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.cli.options import InputOption, JsonOption, ProfileOption, SetOption, console, write_json
from tasks.core.errors import UserError


def drill(
    point_globs: Annotated[
        list[str] | None, typer.Option("--points", metavar="GLOB", help="Only these fault points; repeatable.")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Only list the fault points.")] = False,
    input: InputOption = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset profile, as for run.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where to drill; data/drill if not given.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which a run counts as hanging.")] = 600,
    overrides: SetOption = None,
    profile: ProfileOption = None,
    json_file: JsonOption = None,
) -> None:
    """Prove that a run resumes to the same digests, whatever is killed: let each fault happen on a copy.

    Reads a few hundred synthetic reviews unless --input is given: give a small file. What is done is kept: an
    interrupted drill goes on. Exit status 1 if any point fails.
    """
    from flows.cli.drill_console import FOLDER, chosen, claim, print_certificate, print_points, synthetic, tried
    from flows.drill.runner import Drill

    found = chosen(point_globs or [])
    if show:
        print_points(console, found)
        return
    view_console = Console(stderr=True) if json_file == "-" else console
    folder = (out or FOLDER).resolve()
    if dataset and not input:
        raise UserError("a dataset profile without reviews", where="--dataset", fix="give --input PATH, too")
    claim(folder)
    paths = [path if "://" in path else str(Path(path).absolute()) for path in input or ()]
    arguments = [word for path in paths for word in ("--input", path)]
    arguments = [*arguments, *(["--dataset", dataset] if dataset else [])] if input else synthetic(folder)
    work = Drill(folder, arguments, overrides or [], timeout, profile)
    certificate = tried(view_console, work, found, ", ".join(input) if input else "synthetic reviews")
    print_certificate(view_console, certificate, certificate.write(folder))
    write_json(json_file, certificate.to_json())
    if not certificate.holds:
        raise typer.Exit(1)
