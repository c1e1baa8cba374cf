"""`raymill forget` in MLflow: models that were saved and never became a version, and pages of runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from flows.forget.models import Mlflow
from tasks.settings import load_settings
from tests.support.mlflow_database import new_database


def test_what_a_killed_registration_has_saved_goes_with_its_files(tmp_path: Path) -> None:
    uri = new_database(tmp_path / "m.db")
    client = MlflowClient(uri, uri)
    experiment = client.create_experiment("raymill", (tmp_path / "artifacts").as_uri())

    def saved(name: str, digest: str) -> tuple[str, str]:
        """A run of `register` that has logged a model and was killed."""
        run = client.create_run(experiment, run_name=name, tags={"raymill.model_digest": digest}).info.run_id
        client.log_text(run, "card", "model_card.md")
        client.log_text(run, "words", f"model/{name}.txt")
        model = client.create_logged_model(experiment, name="model", source_run_id=run)
        folder = Path(model.artifact_location.removeprefix("file://"))
        folder.mkdir(parents=True)
        (folder / f"{name}.ubj").write_text("trees")
        client.set_terminated(run, "FAILED")
        return run, model.model_id

    (killed, model), (in_trash, _), _ = saved("killed", "d1"), saved("trash", "d1"), saved("other", "d2")
    client.delete_run(in_trash)
    page = client.create_run(experiment, tags={"snapshot.train": "d1"}).info.run_id
    client.log_text(page, "page", "report/report.html")
    mlflow = Mlflow.of(load_settings(overrides=[f"tracking.uri={uri}", f"storage.root={tmp_path / 'data'}"]))
    assert sorted(mlflow.left_in_runs([], ["d1"])) == sorted(
        [(killed, "models"), (in_trash, "models"), (page, "report")]
    )
    for kind in ("*.ubj", "*.txt"):
        assert {path.stem for path in tmp_path.rglob(kind)} == {"other"}
    assert list(tmp_path.rglob("report.html")) == []
    with pytest.raises(MlflowException, match="not found"):
        client.get_logged_model(model)
    assert list(mlflow.left_in_runs([], ["d1"])) == []
