"""`raymill score`: predictions of a registered model for new reviews."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.cli.options import InputOption, JsonOption, ProfileOption, SetOption, console, write_json
from flows.cli.score_flow import flow_of, told


def score(
    input: InputOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the predictions, new or with earlier ones; data/predictions if not given."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Dataset profile, as for run; it names the model, too, unless data.name does.")
    ] = None,
    model: Annotated[str, typer.Option(help="A version's number, or champion or challenger.")] = "champion",
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with files that appear in the input folder, until Ctrl-C.")
    ] = False,
    reasons: Annotated[
        int | None, typer.Option(min=0, help="Give so many of the largest contributions with each prediction.")
    ] = None,
    overrides: SetOption = None,
    profile: ProfileOption = None,
    json_file: JsonOption = None,
) -> None:
    """Predict reviews with a registered model; they may have no stars. Out: parquet files.

    Each row of the input has a prediction or is listed in rejects/ with the reason. A file that the same version has
    scored before is taken over. To resume a killed run, start it again. With --follow each new file is scored once;
    the folder of predictions gets a folder for each batch of files.
    """
    began = time.perf_counter()
    from flows.cli.launch import launched
    from flows.cli.source_lines import print_source
    from flows.run.evidently_page import check_installed
    from flows.run.scoring import check_folder, fetch, find_reviews, for_scoring, predictions_folder
    from tasks.settings import load_settings

    given = [*(overrides or []), *([f"score.reasons={reasons}"] if reasons is not None else [])]
    settings = load_settings(profile=profile, overrides=given)
    settings = for_scoring(settings, input, dataset)
    out = out or predictions_folder(settings)
    view_console = Console(stderr=True, quiet=settings.logging.as_json) if json_file == "-" else console
    if follow:
        from flows.cli.follow import follow as followed

        write_json(json_file, followed(settings, out, model, view_console))
        return
    # Wrong inputs and a missing model fail here, before anything starts.
    if settings.watch.enabled and settings.watch.evidently:
        check_installed()
    check_folder(out, settings)
    source = find_reviews(settings)
    print_source(view_console, source, settings.data.dataset)
    chosen = fetch(settings, model)
    record = launched(settings, source, "read-new", view_console, flow_of(source, out, chosen.version))
    told(view_console, record, chosen, out, time.perf_counter() - began)
    write_json(json_file, record.to_json())
