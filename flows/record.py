"""What a stage did, as MLflow and the run's record keep it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tasks.core.snapshots import Snapshot
from tasks.core.stage import HasDigest, Stage, StageRun
from tasks.engines import tracking


def record_stage(tracker: tracking.Tracker, stage: Stage, done: StageRun, inputs: Sequence[HasDigest]) -> None:
    """The stage's facts to MLflow: metrics and tags of the parent run, a child run for a stage that learned."""
    snapshot = done.snapshot
    metrics = {f"{stage.name}/seconds_{phase}": s for phase, s in done.seconds.items()}
    metrics[f"{stage.name}/rows"] = rows_out(snapshot)
    metrics |= {f"{stage.name}/{k}": v for k, v in snapshot.manifest.counts.items()}
    tags = {f"snapshot.{stage.name}": snapshot.digest, f"reused.{stage.name}": str(done.reused).lower()}
    tracker.log(tracker.run_id, metrics=metrics, tags=tags)
    if stage.name == "ingest" or (stage.name in ("train", "tune", "refit") and not done.reused):
        made_from = [i for i in inputs if isinstance(i, Snapshot)] or [snapshot]
        child = tracker.run_id if stage.name == "ingest" else _record_learning(tracker, stage, snapshot)
        tracker.log_inputs(child, made_from)


def _record_learning(tracker: tracking.Tracker, stage: Stage, snapshot: Snapshot) -> str:
    facts = snapshot.facts
    child = tracker.child(stage.name, tags={"raymill.snapshot": snapshot.digest, "raymill.key": snapshot.key})
    if stage.name == "tune":
        tracker.log(child, params=facts["best_params"], metrics={k: facts[k] for k in ("best_rmse", "best_rounds")})
        curves: dict[int, list[float]] = {}
        for point in snapshot.read("curves").to_pylist():
            curves.setdefault(point["trial"], []).append(point["rmse"])
        for trial in snapshot.read().to_pylist():
            grandchild = tracker.child(
                f"trial {trial['trial']}", parent=child, tags={"raymill.status": trial["status"]}
            )
            tracker.log(
                grandchild,
                params=json.loads(trial["params"]),
                metrics={"best_valid_rmse": trial["valid_rmse"], "best_round": trial["best_round"]},
                curves={"valid_rmse": curves.get(trial["trial"], [])},
            )
            tracker.end(grandchild)
    else:
        learned: dict[str, list[float]] = {}
        for point in snapshot.read().to_pylist():
            learned.setdefault(f"rmse_{point['split'].replace('+', '_')}", []).append(point["rmse"])
        tracker.log(child, params={**facts["params"], "rounds": facts["rounds"]}, curves=learned)
    tracker.end(child)
    return child


def row_of(stage: Stage, done: StageRun) -> dict[str, Any]:
    snapshot, counts = done.snapshot, done.snapshot.manifest.counts
    return {
        "stage": stage.name,
        "rows_in": counts.get("rows_in", 0),
        "rows": rows_out(snapshot),
        "unit": UNITS.get(stage.name, "rows"),
        "rejected": snapshot.rows("rejects"),
        "repeated": counts.get("repeated", 0),
        "quarantined": snapshot.facts.get("quarantined", 0),
        "reused": done.reused,
        "seconds": dict(done.seconds),
        "digest": snapshot.digest,
        "key": snapshot.key,
        "validation": dict(done.validation),
        "notes": dict(done.notes),
    }


UNITS = {
    "ingest-items": "items",
    "items": "items",
    "describe": "people",
    "count-words": "words",
    "pack-tokens": "blocks",
    "train": "rounds",
    "tune": "trials",
    "refit": "rounds",
}


def rows_out(snapshot: Snapshot) -> int:
    """What the stage made, counted in its unit: rows, or what UNITS says."""
    if snapshot.stage == "split":
        return sum(snapshot.rows(name) for name in ("train", "valid", "test"))
    if snapshot.stage == "pack-tokens":
        return snapshot.manifest.counts["blocks"]  # a file of the format bin has no rows
    return int(snapshot.facts["rounds"]) if UNITS.get(snapshot.stage) == "rounds" else snapshot.rows()
