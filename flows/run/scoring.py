"""What a scoring run reads and writes: its settings, the reviews, the registered model, the folder of predictions."""

from __future__ import annotations

import json
import os
import re
import shutil
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.run.forgotten_users import users_to_forget
from tasks.core.errors import InputError, RegistryError, RunError
from tasks.core.locks import locked
from tasks.core.sections import StorageConfig
from tasks.core.snapshots import Snapshot
from tasks.core.whole_files import write_whole
from tasks.engines import tracking
from tasks.settings import Settings
from tasks.sources import Forgotten, Source, discover
from tasks.stages.package import layout
from tasks.stages.score import registered
from tasks.stages.score.registered import RegisteredModel

FOLDER, PREDICTIONS = "score", "predictions"  # below storage.root: what scoring runs keep, and what they are for
ABOUT = "predictions.json"  # beside the files of predictions: what they are, and whether all are there
LOCK = ".lock"  # held while they are written
OURS = ("part-*", "rejects/*", "quarantine/*")  # in a folder of predictions

# What a command has found for the flow that it starts itself.
SOURCE: ContextVar[Source | None] = ContextVar("source", default=None)


def for_scoring(settings: Settings, input: str | list[str] | None, dataset: str | None) -> Settings:
    """Return the settings with this input, if given, and with the folder of scoring runs as storage.root.

    dataset: a profile; it names the model, too, as it does in a run, unless there is a data.name.
    """
    given = {name: value for name, value in (("input", input), ("dataset", dataset)) if value}
    data = settings.data.model_copy(update=given)
    remote = settings.storage.remote and f"{settings.storage.remote.rstrip('/')}/{FOLDER}"
    storage = settings.storage.model_copy(update={"root": str(settings.storage.path / FOLDER), "remote": remote})
    return settings.model_copy(update={"data": data, "storage": storage})


def predictions_folder(settings: Settings) -> Path:
    """Return where predictions go if nobody says where. settings: those of `for_scoring`."""
    return settings.storage.path.parent / PREDICTIONS


def models_folder(settings: Settings) -> Path:
    """Return where copies of registered models are kept. settings: those of `for_scoring`."""
    return settings.storage.path / "models"


def model_copies(settings: Settings, named: str = "*") -> list[Path]:
    """List the copies of registered models, half-made ones too. settings: those of `for_scoring`; named: a pattern.

    Those beside the folder of scoring runs are of a `raymill serve` that kept its own there; no other folder of that
    place is listed.
    """
    here = [copy for copy in models_folder(settings).glob(named) if copy.is_dir()]
    earlier = settings.storage.path.parent / "models"
    packages = [about.parent for about in earlier.glob(f"{named}/{layout.ABOUT}")]
    return sorted([*here, *(package for package in packages if (package / layout.MODEL).exists())])


def find_reviews(settings: Settings) -> Source:
    """Find the files to score, and who is left out. settings: those of `for_scoring`."""
    return find_files(settings, left_out(settings))


def left_out(settings: Settings) -> Forgotten | None:
    """Return the users to forget, those of runs that train; raises what `users_to_forget` does."""
    return users_to_forget(trainings_storage(settings.storage))


def find_files(settings: Settings, forgotten: Forgotten | None) -> Source:
    source = discover(settings.data.input, settings.data.dataset, settings.ingest, rated=False)
    return replace(source, forgotten=forgotten)


def trainings_storage(storage: StorageConfig) -> StorageConfig:
    """Return the storage of the runs that train; storage: that of `for_scoring`."""
    remote = storage.remote and storage.remote.removesuffix(f"/{FOLDER}")
    return storage.model_copy(update={"root": str(storage.path.parent), "remote": remote})


def fetch(settings: Settings, wanted: str) -> RegisteredModel:
    """Copy a registered model's package from MLflow, unless it is here. wanted: a version's number or alias.

    Raises RegistryError if there is none, or if it predicts another target than features.target: a registry.model_name
    without {target} may hold such.
    """
    name = settings.registry.name_for(settings.features.target, settings.data.called)
    model = registered.fetch(tracking.tracking_uri(settings.tracking), name, wanted, models_folder(settings))
    check_target(settings, name, model.version, model.folder)
    os.utime(model.folder)  # for `raymill gc`, which spares what was used of late
    return model


def check_target(settings: Settings, name: str, version: str, package: Path) -> None:
    """Raise RegistryError if a version predicts another target than features.target."""
    target = settings.features.target
    predicts = layout.About.parse((package / layout.ABOUT).read_text(), f"{name}/{version}").target
    if predicts != target:
        raise RegistryError(
            f"version {version} of {name} predicts the target {predicts}, not {target}",
            where="features.target",
            fix=f"--set features.target={predicts}, or --model with another version",
        )


def check_folder(out: Path, settings: Settings) -> None:
    """Raise InputError if `out` is an address, or within the input, or holds anything but predictions, or a part."""
    check_place(out, settings)
    if not out.exists() or (out / ABOUT).exists():
        return
    ours = (LOCK, f"{ABOUT}.draft")  # the latter of an export that was killed at its first file
    if not out.is_dir() or any(entry.name not in ours for entry in out.iterdir()):
        raise InputError(f"{out} exists and holds no predictions", where="--out", fix="give a new or empty folder")


def check_place(out: Path, settings: Settings) -> None:
    """Raise InputError if `out` is an address, or within the input."""
    if re.match("[a-z][a-z0-9+.-]+:/", str(out)):
        raise InputError(
            f"{out} is no folder of this machine", where="--out", fix="give a local folder, and copy it there"
        )
    given = settings.data.input
    for path in [given] if isinstance(given, str) else given:
        if "://" not in path and out.resolve().is_relative_to(Path(path).resolve()):
            raise InputError(f"{out} is within the input {path}", where="--out", fix="give a folder elsewhere")


def export(read: Snapshot, scored: Snapshot, model: RegisteredModel, out: Path) -> None:
    """Put the predictions into `out`, in place of earlier ones, with the rejects of both stages.

    A killed export leaves an ABOUT that says so. Raises RunError if another run is at it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK, wait=False) as alone:
        if not alone:
            raise RunError(
                f"another run is writing its predictions into {out}",
                fix="give a folder of its own; started again, this run takes over what it has scored",
            )
        what = about(read, scored, model)
        write_whole(out / ABOUT, json.dumps({**what, "finished": False}, indent=1), synced=True)
        files = exported(read, scored)
        for name, file in files.items():
            (out / name).parent.mkdir(exist_ok=True)
            draft = out / f"{name}.draft"
            shutil.copyfile(file, draft)  # no link: the snapshot must not change with it
            os.replace(draft, out / name)
        for old in [old for pattern in OURS for old in out.glob(pattern)]:
            if str(old.relative_to(out)) not in files:
                old.unlink()
        write_whole(out / ABOUT, json.dumps({**what, "finished": True}, indent=1), synced=True)


def exported(read: Snapshot, scored: Snapshot) -> dict[str, Path]:
    """Return the files of a folder of predictions by their names there: all of `scored`, and what was not read."""
    files = {entry.name: scored.root / entry.name for entry in scored.entries()}
    for which, snapshot in (("read", read), ("score", scored)):
        files |= {f"rejects/{which}-{file.name}": file for file in snapshot.files("rejects")}
    return files | {f"quarantine/{file.name}": file for file in read.files("quarantine")}


def about(read: Snapshot, scored: Snapshot, model: RegisteredModel) -> dict[str, Any]:
    """Describe the predictions: rows_in, all rows that could be counted in the input = rows + rejected + forgotten."""
    counts = read.manifest.counts
    return {
        "model": model.name,
        "version": model.version,
        "target": scored.facts["target"],
        "rows_in": counts["rows_in"],
        "rows": scored.rows(),
        "rejected": read.rows("rejects") + scored.rows("rejects"),
        **({"forgotten": counts["forgotten"]} if "forgotten" in counts else {}),
        "snapshot": scored.digest,
    }
