"""The whole job as a user runs it, against the single-process notebook that they would write instead.

Ours: `python -m flows.cli run` in a process of its own, into an empty storage folder with an empty tracking database
each time, so nothing is reused. Peer: `python -m benchmarks.notebook` on the same files. The wall time of both holds
interpreter start and imports. After the timed runs ours runs once more, unchanged: that is `rerun_s`.

    raymill bench pipeline [--size ROWS | --input FOLDER] [--workers W] [--json FILE|-]
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.harness import Case, Setup, Timed
from tasks.core.errors import RunError
from tasks.core.sections import PROJECT

INPUTS = PROJECT / "bench-results" / "inputs"
SEED, TRIALS, MAX_RMSE_RATIO = 7, 12, 1.05
# Each cost of a stage, by the name of the phase it is measured under (tasks.core.stage).
COSTS = {"prepare": "startup", "run": "compute", "validate": "validation", "commit": "commit", "record": "tracking"}
QUIET = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
}


@dataclass
class Job:
    """The input folder and where the sides write. `storage` is the folder of our latest run."""

    input: Path
    workers: int
    scratch: Path
    numbers: count[int] = field(default_factory=count)
    storage: Path | None = None


def prepare(setup: Setup) -> Job:
    return Job(setup.input or synthetic(setup.size), setup.workers, setup.scratch)


def synthetic(rows: int) -> Path:
    """A folder of made-up reviews of that many rows, kept for the next bench."""
    folder = INPUTS / f"synth-{rows}-{SEED}"
    if not folder.exists():
        from tasks.synth import synthesize

        unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.unfinished")
        synthesize(rows, SEED, unfinished)
        unfinished.rename(folder)  # a folder of that name is always a whole one
    return folder


def measure_input(job: Job) -> dict[str, int]:
    import pyarrow.parquet as pq

    files = sorted(job.input.rglob("*.parquet")) if job.input.is_dir() else [job.input]
    rows = sum(pq.read_metadata(f).num_rows for f in files)
    return {"rows": rows, "bytes": sum(f.stat().st_size for f in files)}


def ours(job: Job) -> dict[str, Any]:
    """One run of the flow from nothing. Its JSON summary."""
    if job.storage is not None:
        shutil.rmtree(job.storage)
    job.storage = job.scratch / f"ours-{next(job.numbers)}"
    job.storage.mkdir()
    return _run_flow(job)


def notebook(job: Job) -> dict[str, Any]:
    """One run of the notebook. Its JSON summary."""
    out = job.scratch / f"notebook-{next(job.numbers)}"
    out.mkdir()
    threads = ["--threads", str(job.workers), "--trials", str(TRIALS)]
    summary = run_command(["-m", "benchmarks.notebook", str(job.input), "--out", str(out), *threads], out)
    shutil.rmtree(out)
    return summary


def _run_flow(job: Job) -> dict[str, Any]:
    assert job.storage is not None
    settings = {
        "storage.root": job.storage,
        "tracking.uri": f"sqlite:///{job.storage}/mlflow.db",
        "ray.workers": job.workers,
        "tune.trials": TRIALS,
    }
    overrides = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    command = ["-m", "flows.cli", "run", "--input", str(job.input), "--dataset", "amazon-us", *overrides]
    return run_command(command, job.storage)


def run_command(arguments: list[str], folder: Path) -> dict[str, Any]:
    """Run a Python command that writes a JSON summary. Raises RunError with the end of its output where it fails."""
    summary = folder / "summary.json"
    environment = {**QUIET, **os.environ}
    # To a file: a pipe that daemons inherit would stay open after the command is done.
    with (folder / "output.log").open("w+") as output:
        command = [sys.executable, *arguments, "--json", str(summary)]
        done = subprocess.run(command, cwd=PROJECT, env=environment, stdout=output, stderr=output, check=False)
        output.seek(0)
        said = output.read()
    if done.returncode != 0 or not summary.exists():
        last = "\n".join(said.splitlines()[-15:])
        raise RunError(f"exit status {done.returncode}:\n{last}", where=" ".join(arguments[:3]), fix="run it alone")
    loaded: dict[str, Any] = json.loads(summary.read_text())
    return loaded


def check(job: Job, ours: dict[str, Any], peers: Mapping[str, dict[str, Any]]) -> str:
    """The rows used must be the same; how the errors in stars compare is said, whichever way it goes."""
    theirs = peers["notebook"]
    read, used = _stage(ours, "ingest")["rows_in"], _stage(ours, "clean")["rows"]
    rows = theirs["rows"]
    if (read, used) != (rows["in"], rows["clean"]):
        raise RunError(
            f"the two sides do not use the same rows: ours {used:,} of {read:,}, the notebook {rows['clean']:,} of "
            f"{rows['in']:,} ({rows['bad']:,} bad, {rows['repeated']:,} repeated)",
            where="bench pipeline",
            fix="both must call the same rows bad and repeated: see tasks/sources.py, tasks/clean.py, notebook.py",
        )
    mine, peer = ours["metrics"]["rmse"]["tuned"], theirs["rmse"]["tuned"]
    mean = ours["metrics"]["rmse"]["mean"]
    verdict = "within" if mine <= MAX_RMSE_RATIO * peer else "WORSE THAN"
    return (
        f"the same {used:,} of {read:,} rows are used by both; tuned test RMSE {mine:.4f} against the notebook's "
        f"{peer:.4f} (mean of train: {mean:.4f}): {verdict} {MAX_RMSE_RATIO} times it"
    )


def details(job: Job, runs: Mapping[str, Sequence[Timed]]) -> dict[str, dict[str, Any]]:
    """Where the time of the median run went, the scores, and the unchanged rerun."""
    mine, theirs = _median(runs["ours"]), _median(runs["notebook"])
    started = time.perf_counter()
    rerun = _run_flow(job)
    rerun_s = time.perf_counter() - started
    return {
        "ours": {
            "breakdown": breakdown(mine.output, mine.wall_s),
            "metrics": mine.output["metrics"],
            "rerun_s": round(rerun_s, 3),
            "rerun_reused": f"{sum(bool(s['reused']) for s in rerun['stages'])} of {len(rerun['stages'])} stages",
        },
        "notebook": {
            "breakdown": {"stages_s": theirs.output["seconds"], "rows": theirs.output["rows"]["clean"]},
            "metrics": {k: theirs.output[k] for k in ("rmse", "mae")},
        },
    }


def breakdown(summary: Mapping[str, Any], wall_s: float) -> dict[str, Any]:
    """Seconds by stage and by cost, the costs' shares of the wall time, and microseconds per usable row.

    "other" is what no stage and no start-up accounts for: interpreter start, imports, the orchestrator, the end. It
    is negative by as much as stages ran side by side.
    """
    costs = {"startup": float(summary["startup_s"]), **dict.fromkeys(list(COSTS.values())[1:], 0.0)}
    stages: dict[str, float] = {}
    for stage in summary["stages"]:
        stages[stage["stage"]] = round(sum(stage["seconds"].values()), 3)
        for phase, seconds in stage["seconds"].items():
            cost = COSTS.get(phase, phase)
            costs[cost] = costs.get(cost, 0.0) + seconds
    for name, seconds in summary.get("extra_s", {}).items():  # what the run does outside its stages
        cost = "tracking" if name.startswith("tracking") else name
        costs[cost] = costs.get(cost, 0.0) + seconds
    costs["other"] = wall_s - sum(costs.values())
    rows = max(1, _stage(summary, "clean")["rows"])
    return {
        "wall_s": round(wall_s, 3),
        "stages_s": stages,
        "costs_s": {cost: round(s, 3) for cost, s in costs.items()},
        "shares": {cost: round(s / wall_s, 4) for cost, s in costs.items()},
        "per_row_us": {cost: round(1e6 * s / rows, 2) for cost, s in {**costs, "all": wall_s}.items()},
    }


def _stage(summary: Mapping[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(s for s in summary["stages"] if s["stage"] == name)
    return found


def _median(runs: Sequence[Timed]) -> Timed:
    """The run whose wall time is the (lower) median: its parts add up, as medians of parts would not."""
    return sorted(runs, key=lambda run: run.wall_s)[(len(runs) - 1) // 2]


CASE = Case(
    name="pipeline",
    size_of="rows",
    default_size=50_000,
    prepare=prepare,
    ours=ours,
    peers={"notebook": notebook},
    check=check,
    measure_input=measure_input,
    details=details,
    takes_input=True,
    check_is_warm_up=True,
)
