"""The flow `score`: predictions of a registered model for new reviews.

raymill score --input PATH --out FOLDER
prefect deployment run score/default -p input=PATH -p out=FOLDER

It keeps its snapshots and records in the folder `score` below storage.root: runs that train have theirs beside it.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run

from flows.run import environment, evidently_page, links, logs, nights_page, notify, watching
from flows.run.context import SETTINGS, Run
from flows.run.opening import open_run
from flows.run.record import RunRecord
from flows.run.scoring import (
    SOURCE,
    about,
    check_folder,
    export,
    fetch,
    find_reviews,
    for_scoring,
    predictions_folder,
)
from flows.run.stage_task import StageTasks
from tasks.core.snapshots import Snapshot
from tasks.settings import Settings, load_settings
from tasks.stages.score.registered import RegisteredModel

stages = StageTasks()


@flow(
    name="score",
    flow_run_name="score",
    persist_result=False,
    validate_parameters=True,
    on_failure=[notify.tell_how_it_ended],
    on_crashed=[notify.tell_how_it_ended],
)
def score(
    input: str | list[str] | None = None,
    out: str | None = None,
    dataset: str | None = None,
    model: str = "champion",
    overrides: list[str] | None = None,
    settings: Settings | None = None,
) -> RunRecord:
    """Score reviews with a registered model.

    Args:
        input: Files, folders or globs with reviews; the setting data.input if not given.
        out: Folder for the predictions; data/predictions if not given.
        dataset: The dataset profile, as for etl-train; the setting data.dataset if not given.
        model: A version's number or alias.
        overrides: Settings as "section.key=value" texts.
        settings: All settings at once, instead of conf and overrides.
    """
    environment.prepare()
    settings = SETTINGS.get() or for_scoring(settings or load_settings(overrides=overrides or []), input, dataset)
    logs.set_up(settings)
    notify.remember(str(flow_run.id), settings)
    if settings.watch.enabled and settings.watch.evidently:
        evidently_page.check_installed()
    folder = Path(out) if out else predictions_folder(settings)
    check_folder(folder, settings)
    source = SOURCE.get() or find_reviews(settings)
    with open_run(settings, flow="score") as run:
        chosen = fetch(settings, model)
        read = stages.read_new(source)
        scored = stages.score(read, chosen)
        export(read, scored, chosen, folder)
        what = about(read, scored, chosen)
        create_table_artifact(key="predictions", table=[what], description="What was scored, by what")
        if settings.watch.enabled:
            with watching.not_failing(get_run_logger().warning, "these reviews were not watched"):
                watch(run, read, scored, chosen)
            run.spare("watch")
    return run.summary("completed")


def watch(run: Run, read: Snapshot, scored: Snapshot, model: RegisteredModel) -> None:
    """Watch over what was scored; write the pages, and do what the findings ask for."""
    say = get_run_logger().warning
    watched = stages.watch(read, scored, model)
    night = watching.after_scoring(run, read, scored, watched, say)
    run.record.watched = asdict(night)
    with watching.not_failing(say, "the page over nights was not written"):
        page = nights_page.write(run, run.root)
        links.link("nights", page.as_uri() if page else None, "Nights that were scored")
    if run.settings.watch.evidently:
        with watching.not_failing(say, "Evidently's report was not written"):
            page = evidently_page.write(model, watched, run.root, night.night)
            links.link("evidently", page.as_uri() if page else None, "Evidently's report")
