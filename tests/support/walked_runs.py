"""Runs that walk the graph and commit a small output of each stage under its true key, without Ray or Prefect."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from flows import graph
from flows.run.planning import StagePlan, plan
from flows.run.record import RunRecord, StageRow
from tasks.core.snapshots import Snapshot
from tasks.core.stage import HasDigest, Stage, run_stage
from tasks.core.storage.store import SnapshotStore
from tasks.settings import Settings, load_settings
from tasks.stages import declared_stages


@dataclass
class Run:
    """Runs the graph; each stage's output is the text that `outputs` names for it, if any."""

    settings: Settings
    store: SnapshotStore
    name: str
    until: str | None
    outputs: dict[str, str]
    done: dict[str, bool] = field(default_factory=dict)  # whether it was reused
    rows: list[StageRow] = field(default_factory=list)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._run, declared_stages()[name.replace("_", "-")])

    def together(self, *calls: tuple[Any, ...]) -> list[Any]:
        return [call(*inputs) for call, *inputs in calls]

    def _run(self, stage: Stage, *inputs: HasDigest | None) -> Snapshot | None:
        if self.until in self.done:
            return None

        def make(*_: Any, out: Any, **__: Any) -> None:
            for identity in stage.parts(stage, inputs[0], config) if stage.parts else ():
                out.part(identity, [])
            out.fact(says=self.outputs.get(stage.name, ""))

        config = getattr(self.settings, stage.section)
        # The key is of the declared function's module.
        make.__module__ = stage.function.__module__
        faked = Stage(**{**vars(stage), "function": make})
        ended = run_stage(faked, inputs, config, self.store, validate=lambda *_: {})
        self.done[stage.name] = ended.reused
        self.rows.append(StageRow(stage.name, digest=ended.snapshot.digest, key=ended.snapshot.key))
        path = self.store.root.parent / "runs" / f"{self.name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(RunRecord(run_id=self.name, stages=self.rows).to_json()))
        return ended.snapshot


@dataclass
class Place:
    """Reviews, a store, and the settings that are set."""

    root: Path
    runs: int = 0

    @property
    def reviews(self) -> Path:
        return self.root / "reviews"

    @property
    def store(self) -> SnapshotStore:
        return SnapshotStore(self.root / "data" / "snapshots")

    def settings(self, *overrides: str) -> Settings:
        data = {"input": str(self.reviews), "dataset": "amazon-us"}
        return load_settings(overrides=[f"storage.root={self.root / 'data'}", *overrides], data=data)

    def run(self, *overrides: str, until: str | None = None, **outputs: str) -> dict[str, bool]:
        """Run; returns whether each stage was reused."""
        self.runs += 1
        settings = self.settings(*overrides)
        run = Run(settings, self.store, f"night-{self.runs}", until, outputs)
        graph.walk(graph.find_given(settings, until), run, run.together, lambda *_: None)
        return run.done

    def plan(self, *overrides: str, until: str | None = None) -> dict[str, StagePlan]:
        settings = self.settings(*overrides)
        found = plan(settings, graph.find_given(settings, until), self.store, until)
        return {stage.stage: stage for stage in found}
