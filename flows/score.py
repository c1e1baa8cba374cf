"""The flow `score`: predictions of a registered model for new reviews.

raymill score --input PATH --out FOLDER
prefect deployment run score/default -p input=PATH -p out=FOLDER

It keeps its snapshots and records in the folder `score` below storage.root: runs that train have theirs beside it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run

from flows.run import environment, logs, notify
from flows.run.context import SETTINGS, open_run
from flows.run.record import RunRecord
from flows.run.stage_task import StageTasks
from tasks.core.errors import InputError, RegistryError
from tasks.core.snapshot_files import linked
from tasks.core.snapshots import Snapshot
from tasks.core.whole_files import write_whole
from tasks.engines import model_versions, registry, tracking
from tasks.settings import Settings, load_settings
from tasks.sources import Source, discover
from tasks.stages.score.registered import RegisteredModel

FOLDER = "score"  # below storage.root
ABOUT = "predictions.json"  # beside the files of predictions: what they are, and the sign of a finished folder

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
    input: str | list[str],
    out: str,
    dataset: str | None = None,
    model: str = "champion",
    overrides: list[str] | None = None,
    settings: Settings | None = None,
) -> RunRecord:
    """Score reviews with a registered model.

    Args:
        input: Files, folders or globs with reviews.
        out: Folder for the predictions.
        dataset: The dataset profile; the setting data.dataset if not given.
        model: A version's number or alias.
        overrides: Settings as "section.key=value" texts.
        settings: All settings at once, instead of conf and overrides.
    """
    environment.prepare()
    settings = SETTINGS.get() or for_scoring(settings or load_settings(overrides=overrides or []), input, dataset)
    logs.set_up(settings)
    notify.remember(str(flow_run.id), settings)
    check_folder(Path(out))
    source = find_reviews(settings)
    with open_run(settings, flow="score") as run:
        chosen = fetch(settings, model)
        scored = stages.score(stages.read_new(source), chosen)
        export(scored, chosen, Path(out))
        create_table_artifact(key="predictions", table=[about(scored, chosen)], description="What was scored, by what")
    return run.summary("completed")


def for_scoring(settings: Settings, input: str | list[str], dataset: str | None) -> Settings:
    """Return the settings with this input, and with the folder of scoring runs as storage.root."""
    data = settings.data.model_copy(update={"input": input, **({"dataset": dataset} if dataset else {})})
    remote = settings.storage.remote and f"{settings.storage.remote.rstrip('/')}/{FOLDER}"
    storage = settings.storage.model_copy(update={"root": str(settings.storage.path / FOLDER), "remote": remote})
    return settings.model_copy(update={"data": data, "storage": storage})


def find_reviews(settings: Settings) -> Source:
    return discover(settings.data.input, settings.data.dataset, settings.ingest, rated=False)


def fetch(settings: Settings, wanted: str) -> RegisteredModel:
    """Copy a registered model's package from MLflow, unless it is here. wanted: a version's number or alias.

    Raises RegistryError if there is none.
    """
    uri = tracking.tracking_uri(settings.tracking)
    name = settings.registry.name_for(settings.features.target, settings.data.called)
    with tracking.reaching(uri):
        client = tracking.connect(uri)
        versions = {str(v.version): v for v in registry.existing(client, name)}
        version = wanted if wanted in versions else registry.aliases(client, name).get(wanted)
        if version is None:
            given = ", ".join([*registry.aliases(client, name), *versions])
            raise RegistryError(f"{name} has no version {wanted}", where="--model", fix=f"there are {given}")
        folder = settings.storage.path / "models" / f"{name}-{version}-{versions[version].run_id}"
        if not folder.exists():
            draft = folder.with_name(f"{folder.name}.draft")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            model_versions.fetch(uri, name, version, draft).rename(folder)
            shutil.rmtree(draft)
    return RegisteredModel.of(name, version, folder)


def check_folder(out: Path) -> None:
    """Raise InputError if a folder holds anything but earlier predictions."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / ABOUT).exists())):
        raise InputError(f"{out} exists and holds no predictions", where="--out", fix="give a new or empty folder")


def export(scored: Snapshot, model: RegisteredModel, out: Path) -> None:
    """Put the predictions into `out`, in place of earlier ones; the last file written is ABOUT."""
    out.mkdir(parents=True, exist_ok=True)
    (out / ABOUT).unlink(missing_ok=True)
    for old in out.glob("part-*.parquet"):
        old.unlink()
    shutil.rmtree(out / "rejects", ignore_errors=True)
    for entry in scored.manifest.files:
        linked(scored.root / entry.name, out / entry.name, entry.size)
    write_whole(out / ABOUT, json.dumps(about(scored, model), indent=1), synced=True)


def about(scored: Snapshot, model: RegisteredModel) -> dict[str, Any]:
    counts = scored.manifest.counts
    return {
        "model": model.name,
        "version": model.version,
        "target": scored.facts["target"],
        "rows_in": counts["rows_in"],
        "rows": scored.rows(),
        "rejected": scored.rows("rejects"),
        "snapshot": scored.digest,
    }
