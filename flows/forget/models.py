"""Find and remove what MLflow holds of models that learned from some snapshots: versions, their files, reports."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flows.cli import old_mlflow_runs as stored
from flows.run.mlflow_record import KEY
from flows.run.scoring import for_scoring, model_copies
from tasks.engines import model_versions, registry, tracking
from tasks.settings import Settings
from tasks.stages.register.stage import DIGEST_TAG, KEYS_TAG

FORGET = "forget"  # the action of the audit record about a champion that goes
REPORT = "report"  # the folder of a run's artifacts with its page


@dataclass(frozen=True)
class Touched:
    """A version of a registered model. roles: its aliases."""

    name: str
    version: str
    roles: tuple[str, ...]
    digest: str
    raw: Any

    @property
    def line(self) -> dict[str, Any]:
        return {"name": self.name, "version": self.version, "was": list(self.roles), "digest": self.digest}


@dataclass(frozen=True)
class Mlflow:
    """The MLflow of the settings; `client` is None where there is no database yet."""

    settings: Settings
    uri: str
    client: Any

    @classmethod
    def of(cls, settings: Settings) -> Mlflow:
        """Connect. Raises RegistryError if MLflow does not answer: nothing may be removed then."""
        uri = tracking.tracking_uri(settings.tracking)
        file = uri.removeprefix("sqlite:///")
        there = not uri.startswith("sqlite:///") or Path(file).exists()
        return cls(settings, uri, tracking.connect(uri) if there else None)

    @cached_property
    def versions(self) -> list[tuple[Any, set[str]]]:
        """List all versions of all models, each with the keys of the snapshots that it rests on."""
        if self.client is None:
            return []
        found = []
        with tracking.reaching(self.uri):
            for version in model_versions.all_versions(self.client):
                rests_on: list[str] = []
                with suppress(ValueError):
                    rests_on = json.loads(version.tags.get(KEYS_TAG, "[]"))
                found.append((version, set(rests_on)))
        return sorted(found, key=lambda pair: (pair[0].name, int(pair[0].version)))

    def touched(self, keys: Collection[str]) -> list[Touched]:
        """List the versions that rest on snapshots with these keys."""
        found = []
        for version, rests_on in self.versions:
            if rests_on & set(keys):
                with tracking.reaching(self.uri):
                    roles = registry.aliases(self.client, version.name)
                own = tuple(role for role, number in roles.items() if number == str(version.version))
                digest = version.tags.get(f"{registry.DIGEST}package", "")
                found.append(Touched(version.name, str(version.version), own, digest, version))
        return found

    def strangers(self, known: Collection[str]) -> list[str]:
        """List the versions of which some snapshot is not known here: what they learned from cannot be told."""
        return [
            f"{version.name} version {version.version}"
            for version, keys in self.versions
            if not keys or not keys <= set(known)
        ]

    def remove(self, touched: Touched) -> None:
        """Delete a version: the copies for scoring and serving, its files, its logged model, then itself. May be
        repeated: what finds the version goes last."""
        for copy in model_copies(for_scoring(self.settings, None, None), f"{touched.name}-{touched.version}-*"):
            shutil.rmtree(copy)
        with tracking.reaching(self.uri):
            if registry.CHAMPION in touched.roles:
                self._say_why(touched)
            if touched.raw.run_id:
                self._remove_files(touched.raw.run_id)
            self.client.delete_model_version(touched.name, touched.version)

    def _folders(self, run_id: str) -> Iterator[str]:
        """Yield the folders of a run's artifacts; its files, the card and the audit record, hold numbers alone."""
        at = self.client.get_run(run_id).info.artifact_uri.rstrip("/")
        for artifact in self.client.list_artifacts(run_id):
            if artifact.is_dir:
                yield f"{at}/{artifact.path}"

    def _say_why(self, touched: Touched) -> None:
        experiment = self.client.get_experiment_by_name(self.settings.tracking.experiment)
        if experiment is None:
            return
        audit = registry.Audit(
            FORGET,
            touched.version,
            from_version=touched.version,
            to_version="",
            who=registry.who(),
            when=registry.when(),
            reason="it learned from reviews that were to be forgotten",
        )
        with registry.audited(self.client, experiment.experiment_id, touched.name, audit):
            pass

    def _remove_files(self, run_id: str) -> bool:
        """Remove all models that a run has logged, registered or not, and the folders of its artifacts; return whether
        there were any."""
        run = self.client.get_run(run_id)
        query = f"source_run_id = '{run_id}'"
        logged = self.client.search_logged_models([run.info.experiment_id], filter_string=query)
        places = [*self._folders(run_id), *(model.artifact_location for model in logged)]
        for place in places:
            stored.delete_files(place, self.uri)
        kept_in = stored.store(stored.database(self.uri, self.settings))
        for model in logged:
            self.client.delete_logged_model(model.model_id)
            if kept_in is not None:
                kept_in._hard_delete_logged_model(model.model_id)
        return bool(places)

    def left_in_runs(self, keys: Collection[str], digests: Collection[str]) -> Iterator[tuple[str, str]]:
        """Remove the pages of runs that recorded such snapshots, and models of such that were saved and never became a
        version, of deleted runs, too; yield the runs' ids, each with what is removed.
        """
        experiment = self.client and self.client.get_experiment_by_name(self.settings.tracking.experiment)
        if not experiment:
            return
        with tracking.reaching(self.uri):
            for run in stored.all_runs(self.client, experiment.experiment_id, deleted=True):
                tags = run.data.tags
                if tags.get(DIGEST_TAG) in digests and self._remove_files(run.info.run_id):
                    yield run.info.run_id, "models"
                made = {value for tag, value in tags.items() if tag.startswith("snapshot.")}
                if not (made & set(digests) or tags.get(KEY) in keys):
                    continue
                run_id = run.info.run_id
                if any(artifact.path == REPORT for artifact in self.client.list_artifacts(run_id)):
                    stored.delete_files(f"{run.info.artifact_uri.rstrip('/')}/{REPORT}", self.uri)
                    yield run_id, REPORT

    @property
    def files(self) -> list[Path]:
        """The database file, if it is on this machine. Artifacts go by what they were made from, and whole."""
        database = stored.database(self.uri, self.settings) or ""
        file = Path(database.removeprefix("sqlite:///"))
        return [file] if database.startswith("sqlite:///") and file.exists() else []
