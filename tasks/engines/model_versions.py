"""Versions of registered models in MLflow: save one, find it by tag or alias, fetch its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from tasks.engines.tracking import ABSENT, Tracker

FOLDER = "package"  # of the model's own files, below MLflow's artifacts/


@dataclass(frozen=True)
class PythonModel:
    """A model that MLflow loads by running code, never from a pickle.

    folder: its files, in a folder called FOLDER. script: runs when the model is loaded. code: a folder with the modules
    that the script imports. libraries: distributions that it needs. signature: MLflow's. example: of its input.
    """

    folder: Path
    script: Path
    code: Path
    libraries: tuple[str, ...]
    signature: Any
    example: Any


def save_model(tracker: Tracker, run_id: str, name: str, model: PythonModel, tags: dict[str, str]) -> Any:
    """Log a model and register it with these tags; returns the version."""
    import mlflow
    import mlflow.pyfunc

    mlflow.set_tracking_uri(tracker.uri)
    mlflow.set_registry_uri(tracker.uri)
    with mlflow.start_run(run_id=run_id):
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(model.script),
            artifacts={FOLDER: str(model.folder)},
            code_paths=[str(model.code)],
            signature=model.signature,
            input_example=model.example,
            metadata=tags,
            # Listed, not inferred: inference imports the model in a new process, which takes ten seconds.
            # Without the local part, as 2.13.0+cpu: an index has other builds of the same version.
            pip_requirements=[f"{library}=={version_of(library).partition('+')[0]}" for library in model.libraries],
        )
    try:
        tracker.client.create_registered_model(name)
    except Exception as error:
        if "RESOURCE_ALREADY_EXISTS" not in str(getattr(error, "error_code", "")):
            raise
    return tracker.client.create_model_version(name, info.model_uri, run_id=run_id, tags=tags, model_id=info.model_id)


def version_with_tag(client: Any, name: str, tag: str, value: str) -> Any | None:
    """Find the newest version of a registered model with this tag, or None."""
    tagged = [v for v in all_versions(client, name) if v.tags.get(tag) == value]
    return max(tagged, key=lambda v: int(v.version), default=None)


def all_versions(client: Any, name: str | None = None) -> list[Any]:
    """List the versions of a registered model, or of all."""
    found: list[Any] = []
    token = None
    while not found or token:
        page = client.search_model_versions(name and f"name='{name}'", max_results=1000, page_token=token)
        found, token = [*found, *page], page.token
        if not page:
            break
    return found


def version_by_alias(client: Any, name: str, alias: str) -> Any | None:
    """Find the version with an alias, or None. Other errors are raised: no answer does not mean no version."""
    return _unless_absent(client.get_model_version_by_alias, name, alias)


def version_by_number(client: Any, name: str, number: str) -> Any | None:
    """Find the version with a number, or None, as `version_by_alias` does."""
    return _unless_absent(client.get_model_version, name, number)


def _unless_absent(ask: Callable[[str, str], Any], name: str, which: str) -> Any | None:
    from mlflow.exceptions import MlflowException

    try:
        return ask(name, which)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise


def fetch(uri: str, name: str, version: str, to: Path, file: str = "") -> Path:
    """Copy the folder FOLDER of a version, or one file of it, below `to`; returns its path there."""
    import mlflow
    from mlflow.store.artifact.models_artifact_repo import ModelsArtifactRepository

    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    kept = "/".join(part for part in ("artifacts", FOLDER, file) if part)
    return Path(ModelsArtifactRepository(f"models:/{name}/{version}").download_artifacts(kept, str(to)))


def load_xgboost(uri: str, name: str, version: str) -> Any:
    """Load a version that MLflow's XGBoost flavour saved."""
    import mlflow
    import mlflow.xgboost

    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow.xgboost.load_model(f"models:/{name}/{version}")
