"""`raymill score`: predictions of a registered model for new reviews."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flows.cli.options import InputOption, JsonOption, ProfileOption, SetOption, console, write_json

if TYPE_CHECKING:
    from flows.run.record import RunRecord
    from tasks.settings import Settings


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
    reasons: Annotated[
        int | None, typer.Option(min=0, help="Give so many of the largest contributions with each prediction.")
    ] = None,
    overrides: SetOption = None,
    profile: ProfileOption = None,
    json_file: JsonOption = None,
) -> None:
    """Predict reviews with a registered model; they may have no stars. Out: parquet files.

    Each row of the input has a prediction or is listed in rejects/ with the reason. A file that the same version has
    scored before is taken over. To resume a killed run, start it again.
    """
    began = time.perf_counter()
    from flows.cli.launch import launched
    from flows.cli.source_lines import print_source
    from flows.cli.watch_lines import watch_lines
    from flows.run.evidently_page import check_installed
    from flows.run.scoring import SOURCE, check_folder, fetch, find_reviews, for_scoring, predictions_folder
    from tasks.settings import load_settings

    given = [*(overrides or []), *([f"score.reasons={reasons}"] if reasons is not None else [])]
    settings = load_settings(profile=profile, overrides=given)
    settings = for_scoring(settings, input, dataset)
    out = out or predictions_folder(settings)
    # Wrong inputs and a missing model fail here, before anything starts.
    if settings.watch.enabled and settings.watch.evidently:
        check_installed()
    check_folder(out, settings)
    source = find_reviews(settings)
    view_console = Console(stderr=True, quiet=settings.logging.as_json) if json_file == "-" else console
    print_source(view_console, source, settings.data.dataset)
    chosen = fetch(settings, model)

    def start(masked: Settings) -> RunRecord:
        from flows.score import score as flow

        token = SOURCE.set(source)
        try:
            done: RunRecord = flow(masked.data.input, str(out), masked.data.dataset, chosen.version, settings=masked)
        finally:
            SOURCE.reset(token)
        return done

    record = launched(settings, source, "read-new", view_console, start)
    read, scored = record.row("read-new"), record.row("score")
    assert read is not None
    assert scored is not None
    rejected, seconds = read.rejected + scored.rejected, time.perf_counter() - began
    view_console.print(
        f"{scored.rows:,} predictions{f' and {rejected:,} rejects' if rejected else ''} "
        f"by {chosen.name} version {chosen.version} in {out}: {seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    for line in watch_lines(record.watched) if record.watched else ():
        view_console.print(line, highlight=False, markup=False, soft_wrap=True)
    write_json(json_file, record.to_json())
