"""Remove MLflow runs of raymill that are older than `storage.keep_days`, with all runs below them.

A run and everything below it is kept or removed together. Kept are those that hold a run of a registered version (of
any model), or a training that such a version rests on; those with a run that has not ended; and the newest of each data
set, and the newest that finished. Records of decisions (`raymill models history`) outlive the run that they are below.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.run.mlflow_record import KEY
from tasks.core.sections import PROJECT
from tasks.engines import registry, tracking
from tasks.settings import Settings
from tasks.stages.register.stage import DECISION_RUN, KEYS_TAG

PARENT, OURS, DATASET = "mlflow.parentRunId", "raymill.run_id", "raymill.dataset"  # tags
FLOW_RUN = "prefect.flow_run_id"


@dataclass(frozen=True)
class Tree:
    """A run and all runs below it, the run itself first."""

    runs: tuple[Any, ...]

    @property
    def tags(self) -> dict[str, str]:
        tags: dict[str, str] = self.runs[0].data.tags
        return tags

    @property
    def began_ms(self) -> int:
        return int(self.runs[0].info.start_time)

    @property
    def name(self) -> str:
        return str(self.runs[0].info.run_name)

    @property
    def removable(self) -> list[str]:
        """The ids of the runs to remove: all but records of decisions; those below first."""
        return [run.info.run_id for run in reversed(self.runs) if registry.AUDIT not in run.data.tags]


def old_and_kept(client: Any, settings: Settings, before_ms: int) -> tuple[list[Tree], list[Tree]]:
    """List what to remove, trees that began before `before_ms` (since 1970), and the others, each the oldest first."""
    experiment = client.get_experiment_by_name(settings.tracking.experiment)
    if experiment is None:
        return [], []
    trees = [tree for tree in _trees(all_runs(client, experiment.experiment_id)) if OURS in tree.tags]
    kept = _newest(trees)
    runs, keys = _registered(client)

    def is_old(tree: Tree) -> bool:
        return (
            tree.began_ms < before_ms
            and tree.runs[0].info.run_id not in kept
            and all(_has_ended(run) and run.info.run_id not in runs for run in tree.runs)
            and not any(run.data.tags.get(KEY) in keys for run in tree.runs)
        )

    trees.sort(key=lambda tree: tree.began_ms)
    return [tree for tree in trees if is_old(tree)], [tree for tree in trees if not is_old(tree)]


def all_runs(client: Any, experiment_id: str, *, deleted: bool = False) -> list[Any]:
    """List all runs of an experiment. deleted: those that are marked as deleted, too."""
    from mlflow.entities import ViewType

    view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    runs: list[Any] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], run_view_type=view, max_results=1000, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def _trees(runs: Sequence[Any]) -> Iterator[Tree]:
    below: dict[str, list[Any]] = {}
    known = {run.info.run_id for run in runs}
    for run in runs:
        below.setdefault(run.data.tags.get(PARENT, ""), []).append(run)

    def all_of(run: Any) -> Iterator[Any]:
        yield run
        for child in below.get(run.info.run_id, ()):
            yield from all_of(child)

    for run in runs:
        if run.data.tags.get(PARENT, "") not in known:
            yield Tree(tuple(all_of(run)))


def _newest(trees: Sequence[Tree]) -> set[str]:
    """Return the newest run of each data set, and the newest that finished."""
    found: dict[tuple[str, bool], str] = {}
    for tree in sorted(trees, key=lambda tree: tree.began_ms):
        run, dataset = tree.runs[0].info, tree.tags.get(DATASET, "")
        found[dataset, False] = run.run_id
        if run.status == "FINISHED":
            found[dataset, True] = run.run_id
    return set(found.values())


def _registered(client: Any) -> tuple[set[str], set[str]]:
    """Return the runs that versions of registered models name, and the keys of the snapshots that they rest on."""
    runs: set[str] = set()
    keys: set[str] = set()
    token = None
    while True:
        page = client.search_model_versions(max_results=1000, page_token=token)
        for version in page:
            runs |= {version.run_id, version.tags.get(DECISION_RUN)} - {None, ""}
            with suppress(ValueError):
                keys.update(json.loads(version.tags.get(KEYS_TAG, "[]")))
        token = page.token
        if not token:
            return runs, keys


def _has_ended(run: Any) -> bool:
    return run.info.status in ("FINISHED", "FAILED", "KILLED")


def remove(client: Any, ids: Sequence[str], settings: Settings) -> bool:
    """Delete these runs; return whether they are gone for good, with their files, and not only marked as deleted.

    For good needs MLflow's database itself: a server only marks.
    """
    uri = tracking.tracking_uri(settings.tracking)
    kept_in = store(database(uri, settings))
    gone = [_purge(client, kept_in, run_id, uri) for run_id in ids]
    return all(gone)


def database(uri: str, settings: Settings) -> str | None:
    """Return the database behind a tracking address: itself, or that of the `raymill up` on this machine."""
    from flows.servers.up_state import is_up, state, state_folder

    if not uri.startswith(("http://", "https://")):
        return uri
    folder = state_folder()
    ours = state(folder).get("services", {}).get("mlflow", {}).get("url") if is_up(folder) else None
    if ours != uri:
        return None
    given = settings.services.mlflow_database
    return given.get_secret_value() if given else f"sqlite:///{PROJECT / 'mlruns' / 'mlflow.db'}"


def store(database: str | None) -> Any:
    """Open MLflow's store on its database; None if there is none, or one of another version of MLflow."""
    if database is None or (
        database.startswith("sqlite:///") and not Path(database.removeprefix("sqlite:///")).exists()
    ):
        return None
    from mlflow.exceptions import MlflowException
    from mlflow.tracking._tracking_service.utils import _get_store

    with suppress(MlflowException):
        return _get_store(database)
    return None


def _purge(client: Any, kept_in: Any, run_id: str, uri: str) -> bool:
    """Mark a run as deleted; then remove it from the store, with its files and models; return whether it is gone.

    As `mlflow.cli.gc` does, which cannot be called: given runs alone it also removes all other deleted experiments and
    models.
    """
    from mlflow.exceptions import MlflowException

    client.delete_run(run_id)
    if kept_in is None:
        return False
    try:
        run = kept_in.get_run(run_id)
    except MlflowException:  # another database than the server's
        return False
    models = kept_in.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    for place in (run.info.artifact_uri, *(model.artifact_location for model in models)):
        delete_files(place, uri)
    for model in models:
        kept_in._hard_delete_logged_model(model.model_id)
    kept_in._hard_delete_run(run_id)
    return True


def delete_files(place: str, uri: str) -> None:
    """Delete the artifacts at a place that MLflow names."""
    from mlflow.exceptions import InvalidUrlException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with suppress(InvalidUrlException):  # what was never there
        get_artifact_repository(place, tracking_uri=uri).delete_artifacts()
