"""Where `raymill serve` finds its model: MLflow, and this machine's copies of what it served last."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flows.run import served_last
from flows.run.scoring import check_target, fetch, for_scoring, model_copies, models_folder
from tasks.core import locks
from tasks.core.errors import RaymillError, RegistryDown, RegistryError
from tasks.settings import Settings

if TYPE_CHECKING:
    from flows.serve.model import LoadedModel


class Registry(Protocol):
    """Versions of one registered model. `version` and `load` raise an error where the registry cannot tell."""

    def version(self, wanted: str) -> str | None:
        """Return the number of a version, given by number or alias; None if there is none."""

    def load(self, version: str) -> LoadedModel: ...

    def note(self, wanted: str, version: str) -> None:
        """Keep in mind what `wanted` means, for a start without the registry."""


class MlflowRegistry:
    """A model in MLflow. What an alias meant last is noted in a file, so that a replica can start without MLflow.

    Copies of models are where `raymill score` has its own: `raymill gc` and `raymill forget` find them there.
    """

    def __init__(self, settings: Settings) -> None:
        from tasks.engines import tracking

        self.settings = for_scoring(settings, None, None)
        self.uri = tracking.tracking_uri(settings.tracking)
        self.name = settings.registry.name_for(settings.features.target, settings.data.called)
        self.folder = models_folder(self.settings)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._client: Any = None

    def version(self, wanted: str) -> str | None:
        from tasks.engines import tracking
        from tasks.engines.model_versions import version_by_alias, version_by_number

        if self.uri.startswith("sqlite:///") and not Path(self.uri.removeprefix("sqlite:///")).exists():
            raise RegistryDown("there is no database", where=self.uri)  # connecting would make an empty one
        with tracking.reaching(self.uri):
            self._client = self._client or tracking.connect(self.uri)
            found = (version_by_number if wanted.isdigit() else version_by_alias)(self._client, self.name, wanted)
        return None if found is None else str(found.version)

    def fetch(self, version: str) -> Path:
        """Copy a version's package to this machine, unless it is here; returns its folder."""
        with locks.locked(self.folder / "fetch.lock"):  # replicas fetch at the same time
            return fetch(self.settings, version).folder

    def load(self, version: str) -> LoadedModel:
        from flows.serve.model import LoadedModel  # with XGBoost and Polars, which not every process needs

        return LoadedModel.load(self.name, version, self.fetch(version))

    def note(self, wanted: str, version: str) -> None:
        with locks.locked(self.folder / "fetch.lock"):
            served_last.note(self.folder, self.name, wanted, version)

    def last(self, wanted: str) -> tuple[str, Path] | None:
        """Return what `wanted` meant last and this machine's copy of it; None if there is none.

        Raises RegistryError if that predicts another target.
        """
        version = served_last.noted(self.folder, self.name, wanted)
        copies = [copy for copy in model_copies(self.settings, f"{self.name}-{version}-*") if copy.suffix != ".draft"]
        newest = max(copies, key=lambda copy: copy.stat().st_mtime, default=None)
        if newest is None:
            return None
        check_target(self.settings, self.name, version, newest)
        return version, newest


@dataclass(frozen=True)
class First:
    """The version to begin with and its package. problem: why the registry could not tell it, "" if it could."""

    version: str
    package: Path
    problem: str = ""


def first(registry: MlflowRegistry, wanted: str) -> First:
    """Return the version to begin with, copied to this machine; if the registry is down, the one that was last.

    Raises RegistryError if there is no such version, or none that can be served.
    """
    try:
        version = registry.version(wanted)
        if version is None:
            fix = "raymill models list shows them"
            raise RegistryError(f"no version of {registry.name} is {wanted}", where="--model", fix=fix)
        return First(version, registry.fetch(version))
    except RegistryDown as error:
        last = registry.last(wanted)
        if last is None:
            raise
        return First(*last, told(error))


def told(error: Exception) -> str:
    """Return what happened, without the place: everybody may read `/healthz`."""
    return error.what if isinstance(error, RaymillError) else str(error).partition("\n")[0]
