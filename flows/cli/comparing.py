"""The commands `raymill plan` and `raymill diff`: what a run would do, and what differs between runs or snapshots."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from flows.cli.options import InputOption, JsonOption, ProfileOption, SetOption, console, write_json


def plan(
    input: InputOption = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset profile, as for run.")] = None,
    items: Annotated[list[str] | None, typer.Option("--items", help="Product metadata, as for run.")] = None,
    overrides: SetOption = None,
    profile: ProfileOption = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Plan no stage after this one.")] = None,
    json_file: JsonOption = None,
) -> None:
    """Show which stages a run would reuse and which it would run, and the change that causes it. Runs nothing.

    The options are those of raymill run. Files of the input are read in full, to see whether they have changed.
    """
    from flows.cli.plan import plan_run, print_plan
    from flows.run.names import check_stage_name
    from tasks.settings import load_settings

    check_stage_name(until)
    data = {k: v for k, v in (("input", input), ("dataset", dataset), ("items", items)) if v}
    view_console = Console(stderr=True) if json_file == "-" else console
    planned = plan_run(load_settings(profile=profile, overrides=overrides or [], data=data), view_console, until)
    print_plan(view_console, planned)
    write_json(json_file, {"stages": [stage.as_json() for stage in planned]})


def diff(
    a: Annotated[str | None, typer.Argument(metavar="A", help="STAGE@DIGEST, a digest, a run or STAGE@RUN.")] = None,
    b: Annotated[str | None, typer.Argument(metavar="B", help="What to compare it with.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Print everything, not only the most different.")] = False,
    overrides: SetOption = None,
    profile: ProfileOption = None,
    json_file: JsonOption = None,
) -> None:
    """Compare two snapshots of a stage, or two runs; without names the last two runs.

    Snapshots: rows, columns, distributions, facts, and the settings, code and inputs that differ. Runs: each stage,
    the models' losses and the decisions. Digests and ids may be shortened.
    """
    from flows.cli.diff import compare, print_diff
    from tasks.settings import load_settings

    found = compare(load_settings(profile=profile, overrides=overrides or []), a, b)
    print_diff(Console(stderr=True) if json_file == "-" else console, found, everything=everything)
    write_json(json_file, found.as_json())
