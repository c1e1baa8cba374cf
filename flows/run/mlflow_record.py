"""Record what a stage did in MLflow."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from prefect.runtime import flow_run

from flows.run.usage import Usage
from tasks.core.digests import digest_of
from tasks.core.sections import PROJECT
from tasks.core.snapshots import Snapshot
from tasks.core.stage import HasDigest, Stage, StageRun
from tasks.engines import tracking
from tasks.settings import Settings
from tasks.stages.tune.plots import search_plots
from tasks.stages.watch.findings import numbers

KEY = "raymill.key"  # tag of a child run: the key of its snapshot


def record_stage(
    tracker: tracking.Tracker, stage: Stage, done: StageRun, inputs: Sequence[HasDigest], usage: Usage
) -> None:
    """Log a stage's facts: metrics and tags in the parent run, and a child run for a stage that trains.

    A snapshot has one child run, under the first run that could record it: the run that made it may have been killed
    after its commit.
    """
    snapshot = done.snapshot
    metrics = {f"{stage.name}/seconds_{phase}": s for phase, s in done.seconds.items()}
    metrics[f"{stage.name}/rows"] = stage.size(snapshot)
    metrics |= {f"{stage.name}/cpu_seconds": usage.cpu_s, f"{stage.name}/peak_memory_mb": usage.peak_mb}
    if warnings := done.validation.get("warnings"):
        metrics[f"{stage.name}/warnings"] = len(warnings)
    metrics |= {f"{stage.name}/{k}": v for k, v in snapshot.manifest.counts.items()}
    if stage.name == "watch":
        metrics |= numbers(snapshot.facts)
    tags = {f"snapshot.{stage.name}": snapshot.digest, f"reused.{stage.name}": str(done.reused).lower()}
    tracker.log(tracker.run_id, metrics=metrics, tags=tags)
    if stage.name == "ingest":
        tracker.log_inputs(tracker.run_id, [snapshot])
    elif stage.name in ("train", "tune", "refit", "text-model", "next-token") and not tracker.has_finished(
        **{KEY: snapshot.key}
    ):
        child = _record_learning(tracker, stage, snapshot)
        tracker.log_inputs(child, [i for i in inputs if isinstance(i, Snapshot)])
        tracker.end(child)


def _record_learning(tracker: tracking.Tracker, stage: Stage, snapshot: Snapshot) -> str:
    child = tracker.child(stage.name, tags={"raymill.snapshot": snapshot.digest, KEY: snapshot.key})
    if stage.name == "tune":
        _record_search(tracker, child, snapshot)
    elif stage.name == "text-model":
        _record_text_model(tracker, child, snapshot)
    elif stage.name == "next-token":
        _record_next_token(tracker, child, snapshot)
    else:
        facts = snapshot.facts
        curves: dict[str, list[float]] = {}
        for point in snapshot.read().to_pylist():
            curves.setdefault(f"{point['split'].replace('+', '_')}_{facts['metric']}", []).append(point["loss"])
        tracker.log(
            child,
            params={**facts["params"], "rounds": facts["rounds"]},
            curves=curves,
            tags={"raymill.target": facts["target"]},
        )
    return child


def _record_text_model(tracker: tracking.Tracker, child: str, snapshot: Snapshot) -> None:
    """Log the curves of each block's training, of which rank 0 alone keeps the numbers."""
    curves: dict[str, list[float | None]] = {}
    for point in snapshot.read("curves").to_pylist():
        for name in ("loss", "validation"):
            curves.setdefault(f"block_{point['block']}_{name}", []).append(point[name])
    last = snapshot.facts["blocks"][-1]
    metrics = {name: last[name] for name in ("learned", "steps", "best_loss") if last[name] is not None}
    tracker.log(child, params=snapshot.facts["shape"], metrics=metrics, curves=curves)


def _record_next_token(tracker: tracking.Tracker, child: str, snapshot: Snapshot) -> None:
    """Log the curves, and the perplexity of each slice."""
    points = snapshot.read("curves").to_pylist()
    curves = {name: [point[name] for point in points] for name in ("loss", "validation")}
    metrics = {"perplexity_of_frequencies": snapshot.facts["of_frequencies"]}
    for row in snapshot.read().to_pylist():
        value = re.sub(r"[^\w. -]", "_", row["value"])
        name = "perplexity" if row["slice"] == "all" else f"perplexity/{row['slice']}/{value}"
        metrics[name] = row["perplexity"]
    tracker.log(child, params=snapshot.facts["shape"], metrics=metrics, curves=curves)


def _record_search(tracker: tracking.Tracker, child: str, search: Snapshot) -> None:
    """Log each trial as a run with its parameters and curve, under the same names, so that MLflow can compare them."""
    facts = search.facts
    name = f"valid_{facts['metric']}"
    best = {f"best_{name}": facts["best_loss"], "best_rounds": facts["best_rounds"], "best_trial": facts["best_trial"]}
    tracker.log(child, params=facts["best_params"], metrics=best, tags={"raymill.target": facts["target"]})
    curves: dict[int, list[float]] = {}
    for point in search.read("curves").to_pylist():
        curves.setdefault(point["trial"], []).append(point["loss"])
    for trial in search.read().to_pylist():
        grandchild = tracker.child(f"trial {trial['trial']}", parent=child, tags={"raymill.status": trial["status"]})
        tracker.log(
            grandchild,
            params=json.loads(trial["params"]),
            metrics={
                f"best_{name}": trial["valid_loss"],
                "best_rounds": trial["best_round"] + 1,
                "rounds": trial["rounds"],
                "train_rows": trial["train_rows"],
            },
            curves={name: curves.get(trial["trial"], [])},
        )
        tracker.end(grandchild)
    with TemporaryDirectory(prefix="raymill-plots-") as folder:
        files = {Path(folder) / file: picture for file, picture in search_plots(search).items()}
        for file, picture in files.items():
            file.write_bytes(picture)
        tracker.log_files(child, files, "plots")


def run_tags(run_id: str, settings: Settings) -> dict[str, str]:
    """Return the tags of the parent run."""
    return {
        "raymill.run_id": run_id,
        "raymill.config_digest": digest_of(settings.model_dump(mode="json")),
        "raymill.dataset": settings.data.called,
        "mlflow.source.name": "raymill etl-train",
        "mlflow.source.git.commit": git_commit(),
        "prefect.flow_run_id": str(flow_run.id or ""),
        "prefect.flow_run_name": str(flow_run.name or ""),
    }


def git_commit() -> str:
    """Return the commit of the code, with -dirty for local changes; "" outside a git checkout."""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
