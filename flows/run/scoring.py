"""What a scoring run reads and writes: its settings, the reviews, the registered model, the folder of predictions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tasks.core.errors import InputError
from tasks.core.snapshots import Snapshot
from tasks.core.whole_files import write_whole
from tasks.engines import tracking
from tasks.settings import Settings
from tasks.sources import Source, discover
from tasks.stages.score import registered
from tasks.stages.score.registered import RegisteredModel

FOLDER, PREDICTIONS = "score", "predictions"  # below storage.root: what scoring runs keep, and what they are for
ABOUT = "predictions.json"  # beside the files of predictions: what they are, and the sign of a finished folder


def for_scoring(settings: Settings, input: str | list[str] | None, dataset: str | None) -> Settings:
    """Return the settings with this input, if given, and with the folder of scoring runs as storage.root."""
    given = {name: value for name, value in (("input", input), ("dataset", dataset)) if value}
    data = settings.data.model_copy(update=given)
    remote = settings.storage.remote and f"{settings.storage.remote.rstrip('/')}/{FOLDER}"
    storage = settings.storage.model_copy(update={"root": str(settings.storage.path / FOLDER), "remote": remote})
    return settings.model_copy(update={"data": data, "storage": storage})


def predictions_folder(settings: Settings) -> Path:
    """Return where predictions go if nobody says where. settings: those of `for_scoring`."""
    return settings.storage.path.parent / PREDICTIONS


def find_reviews(settings: Settings) -> Source:
    return discover(settings.data.input, settings.data.dataset, settings.ingest, rated=False)


def fetch(settings: Settings, wanted: str) -> RegisteredModel:
    """Copy a registered model's package from MLflow, unless it is here. wanted: a version's number or alias.

    Raises RegistryError if there is none.
    """
    name = settings.registry.name_for(settings.features.target, settings.data.called)
    return registered.fetch(tracking.tracking_uri(settings.tracking), name, wanted, settings.storage.path / "models")


def check_folder(out: Path, settings: Settings) -> None:
    """Raise InputError if a folder holds anything but earlier predictions, or is within the input."""
    given = settings.data.input
    for path in [given] if isinstance(given, str) else given:
        if "://" not in path and out.resolve().is_relative_to(Path(path).resolve()):
            raise InputError(f"{out} is within the input {path}", where="--out", fix="give a folder elsewhere")
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
        (out / entry.name).parent.mkdir(exist_ok=True)
        shutil.copyfile(scored.root / entry.name, out / entry.name)  # no link: the snapshot must not change with it
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
