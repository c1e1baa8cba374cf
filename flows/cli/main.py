"""The `raymill` command. Exit status: 0 done, 1 a failed run, 2 a user's mistake, 130 interrupted."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.cli.bench import bench
from flows.cli.comparing import diff, plan
from flows.cli.drill import drill
from flows.cli.forget import forget
from flows.cli.launch import launch
from flows.cli.models import models_app
from flows.cli.options import InputOption, JsonOption, ProfileOption, SetOption, console, escaped, write_json
from flows.cli.rehearse import rehearse
from flows.cli.score import score
from flows.cli.serve import serve
from flows.run import environment, logs, machine
from tasks.core.errors import RaymillError
from tasks.core.secrets import mask_error

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
data_app = typer.Typer(no_args_is_help=True, help="Make synthetic reviews; inspect your own.")
app.add_typer(data_app, name="data")
app.add_typer(models_app, name="models")
INTERRUPTED = 130  # exit status


@app.callback()
def _app() -> None:
    """Turn raw product reviews into a tuned, validated, registered model.

    Start with [bold]raymill run --input PATH --dataset amazon-us[/], or with [bold]make run[/] on synthetic reviews.
    """


@app.command()
def run(
    input: InputOption = None,
    dataset: Annotated[
        str | None, typer.Option(help="Dataset profile: a name in conf/datasets or a YAML file.")
    ] = None,
    items: Annotated[
        list[str] | None, typer.Option("--items", help="Product metadata, as for --input; repeatable.")
    ] = None,
    overrides: SetOption = None,
    profile: ProfileOption = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")] = None,
    json_file: JsonOption = None,
) -> None:
    """Run the whole pipeline on your reviews: clean, count, tokenize, train, evaluate, register, report.

    A stage that is done for the same data, settings and code is reused. To resume a killed run, start it again.
    """
    began = time.perf_counter()
    from flows.graph import find_given
    from flows.run.names import check_stage_name
    from tasks.settings import load_settings

    check_stage_name(until)
    data = {k: v for k, v in (("input", input), ("dataset", dataset), ("items", items)) if v}
    settings = load_settings(profile=profile, overrides=overrides or [], data=data)
    # A wrong input fails here, before anything starts.
    given = find_given(settings, until)
    view_console = Console(stderr=True, quiet=settings.logging.as_json) if json_file == "-" else console
    from flows.cli.source_lines import print_source

    for source in filter(None, (given.source, given.metadata)):
        print_source(view_console, source, settings.data.dataset)

    # A registry that is down fails here, before anything starts, too.
    record = launch(settings, given, view_console, until)
    total = time.perf_counter() - began
    record.startup_s, record.wall_s = round(total - record.wall_s, 2), round(total, 2)
    from flows.cli.console import print_summary

    print_summary(view_console, record)
    write_json(json_file, record.to_json())


app.command()(plan)
app.command()(score)
app.command()(serve)


@app.command()
def ablate(
    input: InputOption = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset profile, as for run.")] = None,
    overrides: SetOption = None,
    profile: ProfileOption = None,
    json_file: JsonOption = None,
) -> None:
    """Measure what each group of features is worth: the loss on the validation slice with and without it."""
    from flows.cli.ablate import ablate, print_worths
    from tasks.settings import load_settings

    data = {k: v for k, v in (("input", input), ("dataset", dataset)) if v}
    view_console = Console(stderr=True) if json_file == "-" else console
    result = ablate(load_settings(profile=profile, overrides=overrides or [], data=data), view_console)
    print_worths(view_console, result)
    write_json(json_file, result)


@data_app.command()
def synth(
    rows: Annotated[int, typer.Option(min=1, help="How many reviews.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 7,
    if_missing: Annotated[bool, typer.Option("--if-missing", help="Do nothing if the folder exists.")] = False,
) -> None:
    """Make synthetic reviews with the columns and the dirty rows of the real releases."""
    from tasks.sources.synth import synthesize

    if if_missing and out.exists():
        return
    report = synthesize(rows, seed, out)
    console.print(f"{report.rows:,} reviews, {report.bytes / 1e6:,.1f} MB in {out}", highlight=False)


@data_app.command()
def inspect(
    paths: Annotated[list[str], typer.Argument(metavar="PATH", help="Files, folders or globs, as for --input.")],
    dataset: Annotated[
        str | None, typer.Option(help="Try this dataset profile instead of searching for the best one.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="How many rows to read.")] = 20_000,
    write: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save the proposed profile to this new file.")
    ] = None,
) -> None:
    """Show what raw files hold and which dataset profile fits them; propose one if none does."""
    from flows.cli.inspect import check_target, print_inspection, save
    from tasks.sources.inspection import inspect

    check_target(write, dataset)
    found = inspect(paths, dataset, rows)
    print_inspection(console, found, paths, write)
    save(found, write)


@app.command()
def snapshots(
    stage: Annotated[
        str | None, typer.Option(help="Only this stage's snapshots; with --graph, only its lineage.")
    ] = None,
    graph: Annotated[
        bool, typer.Option("--graph", help="Print the newest run's lineage as a Mermaid flowchart.")
    ] = False,
    overrides: SetOption = None,
    profile: ProfileOption = None,
    json_file: JsonOption = None,
) -> None:
    """List committed snapshots: rows, size, digest, and what each was made from."""
    from flows.cli.snapshots import lineage_graph, snapshot_table, store_of
    from tasks.settings import load_settings

    store = store_of(load_settings(profile=profile, overrides=overrides or []))
    if graph:
        print(lineage_graph(store, stage))
        return
    found = sorted((s for s in store if stage in (None, s.stage)), key=lambda s: s.manifest.committed_at)
    if json_file:
        write_json(json_file, [s.manifest.model_dump() for s in found])
        return
    console.print(snapshot_table(found) if found else "no snapshots yet: raymill run makes them")


app.command()(diff)


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Also check every file's sha256; remove snapshots that differ.")
    ] = False,
    overrides: SetOption = None,
    profile: ProfileOption = None,
) -> None:
    """Remove attempts of dead processes and snapshots that nothing refers to, those of raymill score among them.

    Snapshots of the last storage.keep_runs runs and of registered models are never removed, and none while a run is at
    work. With storage.keep_days older runs in MLflow and Prefect are removed, too.
    """
    from flows.cli.leftovers import remove_leftovers
    from tasks.settings import load_settings

    settings = load_settings(profile=profile, overrides=overrides or [])
    remove_leftovers(settings, console, damaged=damaged, dry_run=dry_run)
    if settings.storage.keep_days is not None:
        from flows.cli.old_runs import remove_old_runs

        remove_old_runs(settings, console, settings.storage.keep_days, dry_run=dry_run)


@app.command()
def up(overrides: SetOption = None, profile: ProfileOption = None) -> None:
    """Run the Prefect server, the MLflow server and a worker, with the nightly schedule, until Ctrl-C or raymill down.

    The worker's runs get the settings given here, too.
    """
    from flows.servers.up import up
    from tasks.settings import load_settings

    up(load_settings(profile=profile, overrides=overrides or []), console, overrides or [], profile)


@app.command()
def status(overrides: SetOption = None, profile: ProfileOption = None, json_file: JsonOption = None) -> None:
    """Show the services of raymill up and whether they answer. Exit status 1 unless all do."""
    from flows.cli.status import print_status
    from flows.servers.up import status
    from tasks.settings import load_settings

    result = status(load_settings(profile=profile, overrides=overrides or []))
    print_status(Console(stderr=True) if json_file == "-" else console, result)
    write_json(json_file, result)
    if not result["well"]:
        raise typer.Exit(1)


@app.command()
def down() -> None:
    """Stop everything that raymill up started, even if raymill up itself was killed."""
    from flows.servers.up import down

    stopped = down()
    console.print(f"stopped {stopped} process(es)" if stopped else "nothing is up", highlight=False)


@app.command()
def doctor() -> None:
    """Find what is missing or odd on this machine, and suggest fixes."""
    from flows.cli.doctor import examine

    signs = {"ok": "[green]✓[/]", "odd": "[yellow]![/]", "bad": "[red]✗[/]"}
    findings = []
    for finding in examine():
        findings.append(finding)
        console.print(f"{signs[finding.level]} {escaped(finding.what)}", highlight=False, soft_wrap=True)
        if finding.fix:
            console.print(f"    → {escaped(finding.fix)}", highlight=False, soft_wrap=True)
    if any(f.level == "bad" for f in findings):
        raise typer.Exit(1)


app.command()(forget)
app.command()(rehearse)
app.command()(drill)
app.command()(bench)


def main() -> None:
    """Run the command; print an expected error as one message and exit with its status."""
    environment.prepare()
    errors = Console(stderr=True)
    try:
        # Without standalone mode, Typer returns the status of its Exit instead of raising it.
        status = app(standalone_mode=False)
        if status == INTERRUPTED:  # so does it with KeyboardInterrupt
            raise KeyboardInterrupt
        sys.exit(status if isinstance(status, int) else 0)
    except (KeyboardInterrupt, typer.Abort):
        errors.print("interrupted; start it again to continue after the last finished stage")
        sys.exit(INTERRUPTED)
    except Exception as error:
        mask_error(error)
        if getattr(error, "exit_code", None) == 2 and hasattr(error, "show"):
            error.show()
            sys.exit(2)
        silent = machine.prefect_fault(error)
        told = error if isinstance(error, RaymillError) else machine.as_run_error(error) or silent
        if told is None:
            raise
        if not logs.tell(told):
            errors.print(f"[bold red]error:[/] {escaped(str(told))}", highlight=False, soft_wrap=True)
        if silent:
            leave(told.exit_status)
        sys.exit(told.exit_status)


def leave(status: int) -> None:
    """End at once, as if killed: at its exit Prefect would wait two minutes for each event that its server has not
    taken, and a run sends one every half a minute."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
