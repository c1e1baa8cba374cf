"""Run the nights of a rehearsal: each reads what had arrived until then, and makes a model.

The graph of `etl-train` is walked as a run walks it, with its stages, parts and reuse, but without Prefect, MLflow and
validation, and no further than to the model. A killed rehearsal is gone on with after its last finished stage.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from flows import graph
from flows.rehearse.promotions import Night
from tasks.core import faults
from tasks.core.digests import digest_of
from tasks.core.snapshots import Snapshot
from tasks.core.stage import HasDigest, Stage, run_stage
from tasks.core.storage.store import SnapshotStore
from tasks.core.whole_files import write_whole
from tasks.engines import cluster
from tasks.settings import Settings
from tasks.sources import Source, discover
from tasks.stages import declared_stages
from tasks.stages.backtest import Models
from tasks.stages.evaluate.scoring import Difference

NIGHTS = "nights"  # the folder of records
PROFILE = "canonical"  # of what has arrived
AFTER = ("evaluate", "package", "prove", "reference", "report")  # stages after the model
NOT_NEEDED = ("describe", "pack-tokens", "next-token")
SEARCHED = ("tune", "refit")


@dataclass
class Walker:
    """Takes the place of the run's stages when the graph is walked: `walker.clean(raw)` runs or reuses clean."""

    settings: Settings
    store: SnapshotStore
    skipped: tuple[str, ...] = ()
    made: dict[str, Snapshot] = field(default_factory=dict)
    reused: dict[str, bool] = field(default_factory=dict)

    @property
    def ran(self) -> tuple[int, int]:
        """Return how many stages ran, and of how many."""
        return sum(not reused for reused in self.reused.values()), len(self.reused)

    def __getattr__(self, name: str) -> Callable[..., Snapshot | None]:
        try:
            return partial(self.run, declared_stages()[name.replace("_", "-")])
        except KeyError:
            raise AttributeError(f"no stage {name!r} is declared in tasks/stages") from None

    def run(self, stage: Stage, *inputs: HasDigest | None) -> Snapshot | None:
        if stage.name in self.skipped:
            return None
        config = getattr(self.settings, stage.section)
        start = partial(cluster.start, self.settings.ray, self.settings.storage.path)
        done = run_stage(stage, inputs, config, self.store, validate=lambda _stage, _out: {}, prepare=start)
        self.made[stage.name], self.reused[stage.name] = done.snapshot, done.reused
        return done.snapshot

    def together(self, *calls: tuple[Any, ...]) -> list[Snapshot | None]:
        return [call(*inputs) for call, *inputs in calls]


@dataclass(frozen=True)
class Told:
    """What a night did, for people. made: how many stages ran, and of how many; of none if the night was finished."""

    night: Night
    made: tuple[int, int]
    seconds: float


@dataclass
class Rehearsal:
    """The nights of one rehearsal. settings: those of `place.opened`.

    A finished night has a record, NIGHTS/night-0003.json, of its model and its scores. The other snapshots of a night
    are removed when the next one is done: what has arrived is taken over from that.
    """

    settings: Settings
    given: graph.Given
    store: SnapshotStore = field(init=False)
    models: dict[int, Snapshot] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = SnapshotStore(self.settings.storage.path / "snapshots")

    @property
    def learner(self) -> str:
        """The stage whose output is the night's model."""
        return "train" if self.settings.rehearse.model == "untuned" else "refit"

    @property
    def skipped(self) -> tuple[str, ...]:
        return (*AFTER, *NOT_NEEDED, *(SEARCHED if self.learner == "train" else ()))

    def __iter__(self) -> Iterator[Told]:
        """Run or take over all nights, the first on what was there before them."""
        first = Walker(self.settings, self.store)
        raw = first.run(declared_stages()["ingest"], self.given.source)
        arrived = first.run(declared_stages()["arrivals"], raw)
        assert raw is not None
        assert arrived is not None
        plan, source = self._plan(arrived), None
        for number, entry in enumerate(arrived.entries()):
            began = time.perf_counter()
            source = _grown(source, str(arrived.root / entry.name), self.settings) if entry.rows else source
            assert source is not None  # the first file has the known reviews
            scores, ran = self._recorded(number, plan), (0, 0)
            if scores is None:
                since = arrived.facts["until"][max(number - 1, 0)]
                walker = self._night(number, source, since)
                scores, ran = walker.made["backtest"], walker.ran
                self._record(number, plan, scores)
                self._remove_others({raw.key, arrived.key, *(made.key for made in walker.made.values())})
            reviews = sum(e.rows or 0 for e in arrived.entries()[: number + 1])
            night = night_of(
                number, arrived.facts["until"][number], entry.rows or 0, reviews, self.models[number], scores
            )
            yield Told(night, ran, time.perf_counter() - began)
            faults.point("rehearse", "night", number)

    def _night(self, number: int, source: Source, since: int) -> Walker:
        walker = Walker(self.settings, self.store, self.skipped)
        graph.walk(replace(self.given, source=source, packs=False), walker, walker.together, lambda *_: None)
        self.models[number] = walker.made[self.learner]
        models = Models(dict(self.models), since)
        walker.run(declared_stages()["backtest"], walker.made["split"], walker.made["features"], models)
        return walker

    def _plan(self, arrived: Snapshot) -> str:
        """Return the digest of all that decides the nights: what arrives, code and settings."""
        stages = [stage for name, stage in declared_stages().items() if name not in self.skipped]
        sections = {stage.section: getattr(self.settings, stage.section).model_dump(mode="json") for stage in stages}
        metadata = self.given.metadata and self.given.metadata.digest
        return digest_of([arrived.digest, metadata, self.learner, sections, [stage.code for stage in stages]])

    def _file(self, number: int) -> Path:
        return self.settings.storage.path / NIGHTS / f"night-{number:04d}.json"

    def _record(self, number: int, plan: str, scores: Snapshot) -> None:
        file = self._file(number)
        file.parent.mkdir(exist_ok=True)
        done = {"plan": plan, "model": self.models[number].key, "scores": scores.key}
        write_whole(file, json.dumps(done, indent=1), synced=True)

    def _recorded(self, number: int, plan: str) -> Snapshot | None:
        """Take over a finished night of the same plan; return its scores, None if there is none."""
        try:
            done = json.loads(self._file(number).read_text())
        except FileNotFoundError:
            return None
        model, scores = self.store.find(self.learner, done["model"]), self.store.find("backtest", done["scores"])
        if done["plan"] != plan or model is None or scores is None:
            return None
        self.models[number] = model
        return scores

    def _remove_others(self, kept: Collection[str]) -> None:
        """Remove what no later night takes over; models and scores stay."""
        for snapshot in self.store:
            if snapshot.key not in kept and snapshot.stage not in (self.learner, "backtest"):
                (Path(snapshot.folder) / "manifest.json").unlink()
                shutil.rmtree(snapshot.folder)


def _grown(source: Source | None, file: str, settings: Settings) -> Source:
    """Return the input with one more file."""
    found = discover(file, PROFILE, settings.ingest)
    return found if source is None else replace(source, files=(*source.files, *found.files))


def night_of(number: int, until: int, arrived: int, reviews: int, model: Snapshot, scores: Snapshot) -> Night:
    """Put together a night's scores from the facts and slices of `backtest`."""
    facts = scores.facts
    by_night: dict[int, dict[str, tuple[int, float]]] = {}
    for row in scores.read("slices").to_pylist():
        by_night.setdefault(row["night"], {})[row["slice"]] = (row["rows"], row["loss"])
    return Night(
        number=number,
        until=datetime.fromtimestamp(until / 1000, UTC).isoformat(timespec="minutes"),
        arrived=arrived,
        reviews=reviews,
        model=model.digest,
        metric=facts["metric"],
        target=facts["target"],
        rows=facts["rows"],
        mean=facts["mean"],
        linear=facts["linear"],
        losses={int(n.removeprefix("night_")): loss for n, loss in facts["losses"].items()},
        differences={
            int(n.removeprefix("night_")): Difference(facts["rows"], *pair) for n, pair in facts["differences"].items()
        },
        slices=by_night,
        months={
            month: (of["rows"], {int(n.removeprefix("night_")): s for n, s in of["sums"].items()})
            for month, of in facts["months"].items()
        },
    )
