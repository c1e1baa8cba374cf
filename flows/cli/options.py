"""Shared by the commands of `raymill`: options, the console, results as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

console = Console()
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting of conf/base.yaml; repeatable."),
]
ProfileOption = Annotated[str | None, typer.Option("--profile", help="A settings profile in conf/profiles.")]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        help="A file, folder or glob with reviews: parquet, JSON, CSV or TSV, also compressed; local, s3:// or gs://. "
        "Repeatable.",
    ),
]
JsonOption = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Also write the result as JSON; - for standard output.")
]


def write_json(target: str | None, value: Any) -> None:
    """Write a result to the target of `--json`; do nothing without one."""
    if target == "-":
        print(json.dumps(value, indent=1))
    elif target:
        Path(target).write_text(json.dumps(value, indent=1))


def escaped(text: str) -> str:
    """Escape a text's markup so that Rich prints it unchanged."""
    from rich.markup import escape

    return escape(text)
