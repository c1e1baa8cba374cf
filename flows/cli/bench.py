"""`raymill bench`: compare a case with the best single-process way."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.cli.options import JsonOption, write_json


def bench(
    case: Annotated[str, typer.Argument(help="The case, such as pipeline.")],
    size: Annotated[int | None, typer.Option(help="Size in the case's own unit, such as rows.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Parallel processes.")] = 2,
    runs: Annotated[int, typer.Option(min=1, help="Timed pairs, after one warm-up.")] = 3,
    input: Annotated[
        Path | None, typer.Option("--input", help="Measure on these reviews instead of synthetic ones.")
    ] = None,
    peers: Annotated[list[str] | None, typer.Option("--peer", help="Only this peer; repeatable.")] = None,
    json_file: JsonOption = None,
) -> None:
    """Compare a case with the best single-process way: first check equal results, then time both in turn."""
    from benchmarks.harness import run_case

    log = Console(stderr=True)
    result = run_case(
        case,
        size=size,
        workers=workers,
        runs=runs,
        input=input,
        peers=peers,
        log=lambda line: log.print(line, highlight=False),
    )
    write_json(json_file or "-", result)
