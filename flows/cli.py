"""The `raymill` command. Exit status: 0 done, 1 a failed run, 2 a user's mistake, 130 interrupted."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flows import environment
from tasks.core.errors import RaymillError, SettingsError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
data_app = typer.Typer(no_args_is_help=True, help="Make review data.")
models_app = typer.Typer(no_args_is_help=True, help="List and promote registered models.")
app.add_typer(data_app, name="data")
app.add_typer(models_app, name="models")

console = Console()
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting of conf/base.yaml; repeatable.")
]
ProfileOption = Annotated[str | None, typer.Option("--profile", help="A settings profile in conf/profiles.")]
JsonOption = Annotated[str | None, typer.Option("--json", metavar="FILE", help="Also write the result as JSON; - for standard output.")]


@app.callback()
def _app() -> None:
    """Raw product reviews into a tuned, validated, registered model.

    Start with [bold]raymill data synth[/] and [bold]raymill run[/], or [bold]raymill run --input PATH --dataset amazon-us[/].
    """


@app.command()
def run(
    input: Annotated[str | None, typer.Option("--input", help="A file or folder with reviews (parquet, CSV, TSV).")] = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset profile: a name in conf/datasets or a YAML file.")] = None,
    overrides: SetOption = None,
    profile: ProfileOption = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")] = None,
    json_file: JsonOption = None,
) -> None:
    """Run the whole pipeline on your reviews: clean, count, tokenize, learn, judge, register, report.

    What is already done for the same data, settings and code is not done again. A run that was killed can simply be
    started again.
    """
    began = time.perf_counter()
    from tasks.core.settings import load_settings
    from tasks.sources import discover

    given = {k: v for k, v in (("input", input), ("dataset", dataset)) if v is not None}
    settings = load_settings(profile=profile, overrides=overrides or [], data=given)
    source = discover(settings.data.input, settings.data.dataset)  # a wrong input fails here, before anything starts
    view_console = Console(stderr=True) if json_file == "-" else console
    size = sum(f.size for f in source.files)
    view_console.print(f"{len(source.files)} file(s), {size / 1e6:,.1f} MB, dataset {settings.data.dataset}", highlight=False)

    from flows.console import ConsoleView, print_summary
    from flows.etl_train import etl_train
    from flows.run import VIEW

    VIEW.set(ConsoleView(view_console))
    started = time.perf_counter()
    summary: dict[str, Any] = etl_train(settings.data.input, settings.data.dataset, settings=settings, until=until)
    total = time.perf_counter() - began
    summary["startup_s"] = round(total - summary["wall_s"], 2)
    summary["imports_s"] = round(started - began, 2)
    summary["wall_s"] = round(total, 2)
    print_summary(view_console, summary)
    _write_json(json_file, summary)


@data_app.command()
def synth(
    rows: Annotated[int, typer.Option(min=1, help="How many reviews.")],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 7,
    if_missing: Annotated[bool, typer.Option("--if-missing", help="Do nothing if the folder is there already.")] = False,
) -> None:
    """Make synthetic reviews with the columns and the dirt of the real releases."""
    from tasks.synth import synthesize

    if if_missing and out.exists():
        return
    report = synthesize(rows, seed, out)
    console.print(f"{report.rows:,} reviews, {report.bytes / 1e6:,.1f} MB in {out}", highlight=False)


def _write_json(target: str | None, value: Any) -> None:
    if target == "-":
        print(json.dumps(value, indent=1))
    elif target:
        Path(target).write_text(json.dumps(value, indent=1))


def main() -> None:
    """Entry point: errors a user can meet become one message and an exit status."""
    environment.prepare()
    errors = Console(stderr=True)
    try:
        app(standalone_mode=False)
    except RaymillError as error:
        errors.print(f"[bold red]error:[/] {_escaped(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_status)
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        errors.print("interrupted; start it again to go on from the last finished stage")
        sys.exit(130)
    except SystemExit:
        raise
    except Exception as error:
        if getattr(error, "exit_code", None) == 2 and hasattr(error, "show"):
            error.show()
            sys.exit(2)
        raise


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


if __name__ == "__main__":
    main()
