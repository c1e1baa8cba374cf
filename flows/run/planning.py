"""Plan a run without running it: which stages are reused, which run, and which change causes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal

from flows import graph
from flows.run.record import RunRecord
from tasks.core.changes import Change, changes
from tasks.core.snapshots import Manifest
from tasks.core.stage import HasDigest, Stage, provenance, stage_key
from tasks.core.storage.store import SnapshotStore
from tasks.settings import Settings
from tasks.stages import declared_stages

Tonight = Literal["reused", "runs", "may run", "registry"]


@dataclass(frozen=True)
class Made:
    """A stage's output as the next stages know it. One that is not made yet has neither key nor digest."""

    stage: str
    key: str = ""
    digest: str = ""


@dataclass(frozen=True)
class StagePlan:
    """What a run would do with a stage.

    "may run": it is made from stages that run (`waits_for`), and reused if their outputs come out as before. Changes
    are those since the snapshot `compared_with`, of the newest run that has one. `register` asks the registry.
    """

    stage: str
    tonight: Tonight
    digest: str = ""
    changes: tuple[Change, ...] = ()
    waits_for: tuple[str, ...] = ()
    note: str = ""
    parts: tuple[int, int] | None = None  # how many of how many are taken over from earlier snapshots
    compared_with: str = ""
    run: str = ""

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "changes": [change.as_json() for change in self.changes], "waits_for": [*self.waits_for]}


@dataclass
class Planner:
    """Takes the place of the run's stages when the graph is walked: `planner.clean(raw)` plans the stage clean."""

    settings: Settings
    store: SnapshotStore
    last: str | None = None
    plans: list[StagePlan] = field(default_factory=list)

    def __getattr__(self, name: str) -> Callable[..., Made | None]:
        try:
            return partial(self._plan, declared_stages()[name.replace("_", "-")])
        except KeyError:
            raise AttributeError(f"no stage {name!r} is declared in tasks/stages") from None

    def together(self, *calls: tuple[Any, ...]) -> list[Made | None]:
        return [planned(*inputs) for planned, *inputs in calls]

    def register(self, *_: Any) -> None:
        if not self._over:
            self.plans.append(StagePlan("register", "registry"))

    @property
    def _over(self) -> bool:
        return self.last is not None and any(plan.stage == self.last for plan in self.plans)

    @cached_property
    def _recorded(self) -> dict[str, list[tuple[str, str]]]:
        """The keys that runs have recorded for each stage, with the runs' ids: this data set's first, then by age."""
        recorded: dict[str, list[tuple[str, str]]] = {}
        own = self.settings.data.called, self.settings.features.target
        records = [RunRecord.from_json(stored) for stored, _ in self.store.records()]
        for record in sorted(records, key=lambda record: (record.dataset, record.target) != own):
            for row in record.stages:
                recorded.setdefault(row.stage, []).append((row.key, record.run_id))
        return recorded

    def _plan(self, stage: Stage, *inputs: HasDigest | None) -> Made | None:
        if self._over:
            return None
        config = getattr(self.settings, stage.section)
        waits_for = tuple(i.stage for i in inputs if isinstance(i, Made) and not i.digest)
        key = "" if waits_for else stage_key(stage, inputs, config)
        if key and (there := self.store.look(stage.name, key)):
            self.plans.append(StagePlan(stage.name, "reused", there.digest))
            return Made(stage.name, key, there.digest)
        self.plans.append(self._explained(stage, inputs, config, waits_for, key))
        return Made(stage.name)

    def _explained(
        self, stage: Stage, inputs: tuple[HasDigest | None, ...], config: Any, waits_for: tuple[str, ...], key: str
    ) -> StagePlan:
        earlier = self.store.manifests(stage.name)
        now = provenance(stage, inputs, config)
        recorded = self._recorded.get(stage.name, [])
        if key and key in (known for known, _ in recorded):
            return StagePlan(stage.name, "runs", note="its snapshot was removed")
        if not earlier:
            return StagePlan(stage.name, "runs", note="no snapshot yet", waits_for=waits_for)
        by_age = _newest_first(earlier, recorded)
        found = {known: changes(earlier[known], now, stage.section) for known in by_age}
        # The stage is reused after all if the missing digests turn out to be those of a snapshot without changes.
        alike = next((known for known in by_age if not found[known]), None) if waits_for else None
        than = alike or by_age[0]
        parts = None
        if stage.parts:
            known = {part for manifest in earlier.values() for part in manifest.parts}
            needed = stage.parts(stage, inputs[0], config)
            parts = len(known.intersection(needed)), len(needed)
        note = "" if found[than] or waits_for else "something that the older snapshot does not name"
        run = next((run for known, run in recorded if known == than), "")
        return StagePlan(
            stage.name,
            "may run" if alike else "runs",
            changes=tuple(found[than]),
            waits_for=waits_for,
            note=note,
            parts=parts,
            compared_with=earlier[than].digest,
            run=run,
        )


def _newest_first(earlier: Mapping[str, Manifest], recorded: list[tuple[str, str]]) -> list[str]:
    """Sort keys: those of the newest runs first, then those that no run has recorded, by age."""
    of_runs = [key for key, _ in recorded if key in earlier]
    by_age = sorted(earlier, key=lambda key: earlier[key].committed_at, reverse=True)
    return list(dict.fromkeys([*of_runs, *by_age]))


def plan(settings: Settings, given: graph.Given, store: SnapshotStore, until: str | None = None) -> list[StagePlan]:
    """Plan a run until a stage, or a whole one; nothing is run, fetched or written.

    Raises SnapshotCorrupt, as the run would, if the files of a snapshot to reuse are not as committed.
    """
    planner = Planner(settings, store, until)
    graph.walk(given, planner, planner.together, planner.register)
    return planner.plans
