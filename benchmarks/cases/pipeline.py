"""The whole job as a user runs it, against the single-process notebook that they would write instead.

Ours: `python -m flows.cli.main run` in a process of its own, into an empty storage folder with an empty tracking
database each time, so nothing is reused. Peer: `python -m benchmarks.peers.notebook` on the same files. The wall time
of both holds interpreter start and imports. After the timed runs ours runs once more, unchanged: that is `rerun_s`.

The peer `with_remote` is ours with `storage.remote` in an S3 server of this machine, a process of its own on the same
cores: what a home in a bucket costs. After the timed runs another machine's run, in an empty folder, fetches all.

    raymill bench pipeline [--size ROWS | --input FOLDER] [--workers W] [--json FILE|-]
    raymill bench pipeline --peer with_remote
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks import local_s3
from benchmarks.harness import Case, Setup, Timed, median_run
from benchmarks.inputs import synthetic
from benchmarks.processes import run_command
from tasks.core.errors import RunError

TRIALS, MAX_RMSE_RATIO = 12, 1.05
MAX_REMOTE_RATIO = 1.5
LEARNS = ("train", "tune")  # from here on a run may come out otherwise than another
# Each cost of a stage, by the name of the phase it is measured under (tasks.core.stage).
COSTS = {"prepare": "startup", "run": "compute", "validate": "validation", "commit": "commit", "record": "tracking"}


@dataclass
class Job:
    """The input folder and where the sides write. `storage` and `mirrored` are the folders of the latest runs."""

    input: Path
    workers: int
    scratch: Path
    cleanup: ExitStack = field(default_factory=ExitStack)
    numbers: count[int] = field(default_factory=count)
    storage: Path | None = None
    mirrored: Path | None = None
    remote: str = ""
    cpu: dict[str, Any] | None = None  # of the first run, which is not timed: CPU seconds and processes by kind


def prepare(setup: Setup) -> Job:
    return Job(setup.input or synthetic(setup.size), setup.workers, setup.scratch, setup.cleanup)


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
    summary = _run_flow(job, job.storage, watched=job.cpu is None)
    job.cpu = job.cpu or summary.pop("cpu")
    return summary


def with_remote(job: Job) -> dict[str, Any]:
    """The same with an empty bucket for its home. Its JSON summary."""
    if not job.remote:
        job.remote = local_s3.serve(job.cleanup, job.scratch)
    local_s3.empty(job.remote)
    if job.mirrored is not None:
        shutil.rmtree(job.mirrored)
    job.mirrored = job.scratch / f"mirrored-{next(job.numbers)}"
    job.mirrored.mkdir()
    return _run_flow(job, job.mirrored, job.remote)


def notebook(job: Job) -> dict[str, Any]:
    """One run of the notebook. Its JSON summary."""
    out = job.scratch / f"notebook-{next(job.numbers)}"
    out.mkdir()
    threads = ["--threads", str(job.workers), "--trials", str(TRIALS)]
    summary = run_command(["-m", "benchmarks.peers.notebook", str(job.input), "--out", str(out), *threads], out)
    shutil.rmtree(out)
    return summary


def _run_flow(job: Job, storage: Path, remote: str = "", *, watched: bool = False) -> dict[str, Any]:
    settings = {
        "storage.root": storage,
        "storage.remote": remote or "null",
        "tracking.uri": f"sqlite:///{storage}/mlflow.db",
        "ray.workers": job.workers,
        "tune.trials": TRIALS,
    }
    overrides = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    command = ["-m", "flows.cli.main", "run", "--input", str(job.input), "--dataset", "amazon-us", *overrides]
    return run_command(command, storage, local_s3.KEYS if remote else {}, watched=watched)


def check(job: Job, ours: dict[str, Any], peers: Mapping[str, dict[str, Any]]) -> str:
    """The rows used must be the same; how the errors in stars compare is said, whichever way it goes."""
    return "; ".join(CHECKS[name](ours, output) for name, output in peers.items())


def _check_remote(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    digests = [{s["stage"]: s["digest"] for s in run["stages"]} for run in (ours, theirs)]
    names = list(digests[0])
    same = names[: min(names.index(name) for name in LEARNS if name in names)]
    differing = [name for name in same if digests[0][name] != digests[1].get(name)]
    if differing:
        raise RunError(f"other digests with a bucket: {', '.join(differing)}", where="bench pipeline")
    return f"with_remote has the same digests in {len(same)} stages"


def _check_notebook(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    read, used = _stage(ours, "ingest")["rows_in"], _stage(ours, "clean")["rows"]
    rows = theirs["rows"]
    if (read, used) != (rows["in"], rows["clean"]):
        raise RunError(
            f"the two sides do not use the same rows: ours {used:,} of {read:,}, the notebook {rows['clean']:,} of "
            f"{rows['in']:,} ({rows['bad']:,} bad, {rows['repeated']:,} repeated)",
            where="bench pipeline",
            fix="both must call the same rows bad and repeated: see tasks/sources, tasks/stages/clean and the notebook",
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
    assert job.storage is not None
    mine = median_run(runs["ours"])
    rerun_s, reused = _again(job, job.storage)
    found = {
        "ours": {
            "breakdown": breakdown(mine.output, mine.wall_s),
            "metrics": mine.output["metrics"],
            "cpu": job.cpu,
            "rerun_s": rerun_s,
            "rerun_reused": reused,
        }
    }
    if "notebook" in runs:
        theirs = median_run(runs["notebook"])
        found["notebook"] = {
            "breakdown": {"stages_s": theirs.output["seconds"], "rows": theirs.output["rows"]["clean"]},
            "metrics": {k: theirs.output[k] for k in ("rmse", "mae")},
        }
    if "with_remote" in runs:
        found["with_remote"] = _remote_details(job, mine, median_run(runs["with_remote"]))
    return found


def _remote_details(job: Job, mine: Timed, theirs: Timed) -> dict[str, Any]:
    """What the bucket costs: `times_ours` in wall time, and the runs that only read."""
    assert job.mirrored is not None
    rerun_s, reused = _again(job, job.mirrored, job.remote)
    elsewhere = job.scratch / f"elsewhere-{next(job.numbers)}"
    elsewhere.mkdir()
    fetch_s, fetched = _again(job, elsewhere, job.remote)
    snapshots = [f for f in (elsewhere / "snapshots").rglob("*") if f.is_file()]
    times = round(theirs.wall_s / mine.wall_s, 4)
    return {
        "breakdown": breakdown(theirs.output, theirs.wall_s),
        "times_ours": times,
        "verdict": f"{'within' if times <= MAX_REMOTE_RATIO else 'MORE THAN'} {MAX_REMOTE_RATIO} times the local disk",
        "rerun_s": rerun_s,
        "rerun_reused": reused,
        "fetch_s": fetch_s,
        "fetch_reused": fetched,
        "fetched_bytes": sum(f.stat().st_size for f in snapshots),
    }


def _again(job: Job, storage: Path, remote: str = "") -> tuple[float, str]:
    """Seconds of a run to which all is done already, and how much of it was."""
    started = time.perf_counter()
    rerun = _run_flow(job, storage, remote)
    reused = f"{sum(bool(s['reused']) for s in rerun['stages'])} of {len(rerun['stages'])} stages"
    return round(time.perf_counter() - started, 3), reused


def without_moto(size: int) -> dict[str, str]:
    from importlib.util import find_spec

    return {} if find_spec("moto") else {"with_remote": "needs the S3 server of the dev extra (moto)"}


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


CHECKS = {"notebook": _check_notebook, "with_remote": _check_remote}
CASE = Case(
    name="pipeline",
    size_of="rows",
    default_size=50_000,
    prepare=prepare,
    ours=ours,
    peers={"notebook": notebook, "with_remote": with_remote},
    check=check,
    measure_input=measure_input,
    details=details,
    takes_input=True,
    check_is_warm_up=True,
    skip=without_moto,
)
