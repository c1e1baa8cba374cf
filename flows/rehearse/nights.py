"""Run the nights of a rehearsal: each reads what had arrived until then, and makes a model.

The graph of `etl-train` is walked as a run walks it, with its stages, parts and reuse, but without Prefect, MLflow and
validation, and no further than to the model. What is committed is reused when a killed rehearsal is started again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from flows import graph
from flows.rehearse.promotions import Night
from tasks.core import faults
from tasks.core.snapshots import Snapshot
from tasks.core.stage import HasDigest, Stage, run_stage
from tasks.core.storage.store import SnapshotStore
from tasks.engines import cluster
from tasks.settings import Settings
from tasks.sources import Source, discover
from tasks.stages import declared_stages
from tasks.stages.backtest import Models
from tasks.stages.evaluate.scoring import Difference

PROFILE = "canonical"  # of what has arrived
AFTER = ("evaluate", "package", "prove", "report")  # stages after the model
NOT_NEEDED = ("describe", "pack-tokens")
SEARCHED = ("tune", "refit")


@dataclass
class Walker:
    """Takes the place of the run's stages when the graph is walked: `walker.clean(raw)` runs or reuses clean."""

    settings: Settings
    store: SnapshotStore
    skipped: tuple[str, ...] = ()
    made: dict[str, Snapshot] = field(default_factory=dict)
    reused: dict[str, bool] = field(default_factory=dict)

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
    """What a night did, for people. made: how many stages ran, and of how many."""

    night: Night
    made: tuple[int, int]
    seconds: float


def nights(settings: Settings, given: graph.Given) -> Iterator[Told]:
    """Run all nights, the first on what was there before them. settings: those of `place.opened`."""
    store = SnapshotStore(settings.storage.path / "snapshots")
    first = Walker(settings, store)
    raw = first.run(declared_stages()["ingest"], given.source)
    arrived = first.run(declared_stages()["arrivals"], raw)
    assert arrived is not None
    files, until = arrived.entries(), arrived.facts["until"]
    skipped = (*AFTER, *NOT_NEEDED, *(SEARCHED if settings.rehearse.model == "untuned" else ()))
    models: dict[int, Snapshot] = {}
    source: Source | None = None
    for number, entry in enumerate(files):
        began = time.perf_counter()
        source = _grown(source, str(arrived.root / entry.name), settings) if entry.rows else source
        assert source is not None  # the first file has the known reviews
        walker = Walker(settings, store, skipped)
        graph.walk(replace(given, source=source, packs=False), walker, walker.together, lambda *_: None)
        models[number] = walker.made["train" if settings.rehearse.model == "untuned" else "refit"]
        since = until[number - 1] if number else until[0]
        scores = walker.run(
            declared_stages()["backtest"], walker.made["split"], walker.made["features"], Models(dict(models), since)
        )
        assert scores is not None
        night = _night(number, until[number], entry.rows or 0, models[number], scores)
        ran = sum(not reused for reused in walker.reused.values())
        yield Told(night, (ran, len(walker.reused)), time.perf_counter() - began)
        faults.point("rehearse", "night", number)


def _grown(source: Source | None, file: str, settings: Settings) -> Source:
    """Return the input with one more file."""
    found = discover(file, PROFILE, settings.ingest)
    return found if source is None else replace(source, files=(*source.files, *found.files))


def _night(number: int, until: int, arrived: int, model: Snapshot, scores: Snapshot) -> Night:
    facts = scores.facts
    by_night: dict[int, dict[str, tuple[int, float]]] = {}
    for row in scores.read("slices").to_pylist():
        by_night.setdefault(row["night"], {})[row["slice"]] = (row["rows"], row["loss"])
    return Night(
        number=number,
        until=datetime.fromtimestamp(until / 1000, UTC).isoformat(timespec="minutes"),
        arrived=arrived,
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
