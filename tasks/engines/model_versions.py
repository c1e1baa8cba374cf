"""Versions of registered models in MLflow: save one, find it by tag or alias, load it."""

from __future__ import annotations

from typing import Any

from tasks.engines.tracking import ABSENT, Tracker


def save_model(tracker: Tracker, run_id: str, name: str, booster: Any, example: Any, tags: dict[str, str]) -> Any:
    """Log a booster as UBJ with signature and input example, and register it with these tags; returns the version."""
    import mlflow
    import mlflow.xgboost
    import xgboost
    from mlflow.models import infer_signature

    mlflow.set_tracking_uri(tracker.uri)
    mlflow.set_registry_uri(tracker.uri)
    predicted = booster.predict(xgboost.DMatrix(example))
    with mlflow.start_run(run_id=run_id):
        info = mlflow.xgboost.log_model(
            booster,
            name="model",
            model_format="ubj",
            signature=infer_signature(example, predicted),
            input_example=example,
            metadata=tags,
            # Listed, not inferred: inference imports the model in a new process, which takes ten seconds.
            pip_requirements=[f"xgboost=={xgboost.__version__}"],
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
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise


def load_version(uri: str, name: str, version: str) -> Any:
    """Load a registered booster from UBJ."""
    import mlflow
    import mlflow.xgboost

    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow.xgboost.load_model(f"models:/{name}/{version}")
