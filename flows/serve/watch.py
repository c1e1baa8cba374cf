"""Follow the registry: load a version that becomes champion beside the one that is served, then let it take over.

A registry that does not answer, or a version that cannot be loaded, changes nothing; `Watch.state` tells it.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from flows.serve.measures import Measures
from flows.serve.model import LoadedModel, Served
from flows.serve.shadow import DifferenceLog, Shadow
from tasks.core.errors import RaymillError, RegistryError
from tasks.core.sections import ServeConfig
from tasks.core.whole_files import write_whole
from tasks.settings import Settings

PATIENCE = 15  # polls before a version that could not be loaded is tried again


class Registry(Protocol):
    """Versions of one registered model. `version` and `load` raise an error where the registry cannot tell."""

    def version(self, wanted: str) -> str | None:
        """Return the number of a version, given by number or alias; None if no version has the alias."""

    def load(self, version: str) -> LoadedModel: ...

    def note(self, wanted: str, version: str) -> None:
        """Keep in mind what `wanted` means, for a start without the registry."""


class MlflowRegistry:
    """A model in MLflow. What an alias meant last is noted in a file, so that a replica can start without MLflow."""

    def __init__(self, settings: Settings) -> None:
        from tasks.engines import tracking

        self.settings = settings
        self.uri = tracking.tracking_uri(settings.tracking)
        self.name = settings.registry.name_for(settings.features.target, settings.data.called)
        self.folder = settings.storage.path / "models"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._client: Any = None

    def version(self, wanted: str) -> str | None:
        from tasks.engines import tracking
        from tasks.engines.model_versions import version_by_alias

        if wanted.isdigit():
            return wanted
        if self.uri.startswith("sqlite:///") and not Path(self.uri.removeprefix("sqlite:///")).exists():
            raise RegistryError("there is no database", where=self.uri)  # connecting would make an empty one
        with tracking.reaching(self.uri):
            self._client = self._client or tracking.connect(self.uri)
            found = version_by_alias(self._client, self.name, wanted)
        return None if found is None else str(found.version)

    def load(self, version: str) -> LoadedModel:
        from flows.run.scoring import fetch
        from tasks.core import locks

        with locks.locked(self.folder / "fetch.lock"):  # replicas fetch at the same time
            model = fetch(self.settings, version)
        return LoadedModel.load(self.name, version, model.folder)

    def note(self, wanted: str, version: str) -> None:
        write_whole(self.folder / f"{self.name}@{wanted}", version)

    def last(self, wanted: str) -> LoadedModel | None:
        """Load this machine's copy of what `wanted` meant last; None if there is none."""
        note = self.folder / f"{self.name}@{wanted}"
        version = note.read_text() if note.exists() else wanted
        copies = [folder for folder in self.folder.glob(f"{self.name}-{version}-*") if folder.suffix != ".draft"]
        newest = max(copies, key=lambda folder: folder.stat().st_mtime, default=None)
        return None if newest is None else LoadedModel.load(self.name, version, newest)


@dataclass
class Watch:
    """Polls the registry and changes what is served. wanted: an alias or a number."""

    registry: Registry
    config: ServeConfig
    wanted: str
    served: Served
    log: Callable[[LoadedModel], DifferenceLog]
    problem: str = ""  # why the registry could not tell or a version could not be loaded; "" if all is well
    asked_at: float = 0.0  # when the registry answered last, in seconds since 1970
    _failed: dict[str, int] = field(default_factory=dict)  # polls to leave out, by version
    _stopped: threading.Event = field(default_factory=threading.Event)

    def start(self) -> Watch:
        threading.Thread(target=self._work, name="watch", daemon=True).start()
        return self

    def stop(self) -> None:
        self._stopped.set()
        if self.served.shadow is not None:
            self.served.shadow.stop()

    def _work(self) -> None:
        while not self._stopped.wait(self.config.poll_seconds):
            self.poll()

    def poll(self) -> None:
        """Ask the registry once; load what is new. Raises nothing."""
        try:
            self.problem = self._champion() or self._shadow() or ""
            self.asked_at = time.time()
            self.served.measures.registry_up.set(1)
        except Exception as error:  # of whichever system the registry is
            self.problem = _told(error)
            self.served.measures.registry_up.set(0)

    def _champion(self) -> str | None:
        version = self.registry.version(self.wanted)
        if version is None:
            return f"no version is {self.wanted}"
        if version != self.served.champion.version:
            loaded = self._loaded(version)
            if isinstance(loaded, str):
                return loaded
            self.served.promote(loaded)
            self.registry.note(self.wanted, version)
        return None

    def _shadow(self) -> str | None:
        if self.config.shadow is None:
            return None
        version, now = self.registry.version(self.config.shadow), self.served.shadow
        if version == self.served.champion.version:
            version = None  # nothing to compare
        if version == (now.model.version if now else None):
            return None
        loaded = None if version is None else self._loaded(version)
        if isinstance(loaded, str):
            return f"shadow: {loaded}"
        self.served.shadow = None if loaded is None else Shadow(loaded, self.served.measures, self.log(loaded)).start()
        if now is not None:
            now.stop()
        return None

    def _loaded(self, version: str) -> LoadedModel | str:
        """Load a version, or say why it cannot be; one that could not is left alone for a while."""
        if self._failed.get(version, 0) > 0:
            self._failed[version] -= 1
            return self.problem.removeprefix("shadow: ")
        try:
            loaded = self.registry.load(version)
        except Exception as error:  # the version may hold anything
            self._failed[version] = PATIENCE
            return f"version {version} cannot be loaded: {_told(error)}"
        self._failed.pop(version, None)
        return loaded


def begin(settings: Settings, wanted: str, registry: MlflowRegistry | None = None) -> Watch:
    """Load the champion and return its watch, which is not started. Raises RegistryError if there is none.

    If the registry does not answer, the version that was loaded last is served.
    """
    registry = registry or MlflowRegistry(settings)
    problem, champion = "", None
    try:
        if version := registry.version(wanted):
            champion = registry.load(version)
            registry.note(wanted, version)
    except RegistryError as error:
        problem, champion = _told(error), registry.last(wanted)
        if champion is None:
            raise
    if champion is None:
        raise RegistryError(
            f"no version of {registry.name} is {wanted}", where="--model", fix="raymill models list shows them"
        )
    served = Served(champion, measures := Measures())
    measures.serves(champion.name, champion.version)
    folder, limit = settings.storage.path / "score" / "shadow", int(settings.serve.shadow_log_mb * 1e6)

    def log(model: LoadedModel) -> DifferenceLog:
        return DifferenceLog(folder / f"{model.name}.jsonl", limit)

    watch = Watch(registry, settings.serve, wanted, served, log, problem)
    if not problem:
        watch.poll()
    # What is loaded is there to stay: without it, a garbage collection takes milliseconds, not a hundred, of a request.
    gc.collect()
    gc.freeze()
    return watch


def _told(error: Exception) -> str:
    """Return what happened, without the place: everybody may read `/healthz`."""
    return error.what if isinstance(error, RaymillError) else str(error).partition("\n")[0]
