"""Follow the registry: load a version that becomes champion beside the one that is served, then let it take over.

A registry that does not answer, or a version that cannot be loaded, changes nothing; `Watch.state` tells it.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from flows.serve.measures import Measures
from flows.serve.model import LoadedModel, Served
from flows.serve.registry import MlflowRegistry, Registry, first, told
from flows.serve.shadow import DifferenceLog, Shadow
from tasks.core.sections import ServeConfig
from tasks.settings import Settings

PATIENCE = 15  # polls before a version that could not be loaded is tried again


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
    _failed: dict[str, tuple[int, str]] = field(default_factory=dict)  # polls to leave out, and why, by version
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
            self.problem = told(error)
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
        polls, why = self._failed.get(version, (0, ""))
        if polls > 0:
            self._failed[version] = polls - 1, why
            return why
        try:
            loaded = self.registry.load(version)
        except Exception as error:  # the version may hold anything
            why = f"version {version} cannot be loaded: {told(error)}"
            self._failed[version] = PATIENCE, why
            return why
        self._failed.pop(version, None)
        return loaded


def begin(settings: Settings, wanted: str) -> Watch:
    """Load the champion and return its watch, which is not started. Raises RegistryError if there is none.

    If the registry does not answer, the version that was loaded last is served.
    """
    registry = MlflowRegistry(settings)
    found = first(registry, wanted)
    champion = LoadedModel.load(registry.name, found.version, found.package)
    if not found.problem:
        registry.note(wanted, found.version)
    served = Served(champion, measures := Measures())
    measures.serves(champion.name, champion.version)
    folder, limit = settings.storage.path / "score" / "shadow", int(settings.serve.shadow_log_mb * 1e6)

    def log(model: LoadedModel) -> DifferenceLog:
        return DifferenceLog(folder / f"{model.name}.jsonl", limit)

    watch = Watch(registry, settings.serve, wanted, served, log, found.problem)
    if not found.problem:
        watch.poll()
    # What is loaded is there to stay: without it, a garbage collection takes milliseconds, not a hundred, of a request.
    gc.collect()
    gc.freeze()
    return watch
