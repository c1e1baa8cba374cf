"""Raw reviews to predictions: `raymill score` against one good process with the same model.

The model is trained first, by a run on 20,000 other synthetic reviews. Ours: `raymill score` in a process of its own,
with an empty folder for its snapshots each time; the peer: `python -m benchmarks.peers.score`. The wall time of both
holds interpreter start, imports and, ours, the start of Ray and of Prefect's server. The watch over what was scored is
off: the peer has none. Predictions are the same, bit for bit.

    raymill bench score [--size ROWS] [--json FILE|-]
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from benchmarks.harness import Case, Setup
from benchmarks.inputs import kept, synthetic
from benchmarks.processes import in_own_process, run_command
from tasks.core.errors import RunError

TRAINED_ON, SEED = 20_000, 11
NAME = "bench"


@dataclass
class Job:
    """input: raw reviews; storage: where the model was trained, with MLflow's database beside it."""

    input: Path
    workers: int
    scratch: Path
    storage: Path
    package: Path
    numbers: count[int] = field(default_factory=count)
    out: Path | None = None


def prepare(setup: Setup) -> Job:
    from tasks.sources.synth import synthesize
    from tasks.stages.score.registered import fetch

    storage = setup.scratch / "trained"
    storage.mkdir()
    learned = kept(f"synth-{TRAINED_ON}-{SEED}", lambda folder: synthesize(TRAINED_ON, SEED, folder))
    settings = _settings(storage, storage)
    run_command(["-m", "flows.cli.main", "run", "--input", str(learned), "--until", "register", *settings], storage)
    package = fetch(f"sqlite:///{storage}/mlflow.db", f"raymill-{NAME}-rating", "champion", storage / "models").folder
    return Job(synthetic(setup.size), setup.workers, setup.scratch, storage, package)


def _settings(storage: Path, trained: Path) -> list[str]:
    given = {"storage.root": storage, "tracking.uri": f"sqlite:///{trained}/mlflow.db", "data.name": NAME}
    return [word for name, value in given.items() for word in ("--set", f"{name}={value}")]


def ours(job: Job) -> Path:
    """Score into an empty store. The folder of predictions."""
    if job.out is not None:
        shutil.rmtree(job.out)
    job.out = job.scratch / f"ours-{next(job.numbers)}"
    job.out.mkdir()
    settings = [
        *_settings(job.out, job.storage),
        "--set",
        f"score.workers={job.workers}",
        "--set",
        "watch.enabled=false",
    ]
    words = ["-m", "flows.cli.main", "score", "--input", str(job.input), "--out", str(job.out / "predictions")]
    run_command([*words, *settings], job.out)
    return job.out / "predictions"


def one_process(job: Job) -> Path:
    out = job.scratch / "peer"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    in_own_process("benchmarks.peers.score", [str(job.package), str(job.input), str(out)], out, threads=job.workers)
    return out


def check(job: Job, ours: Path, peers: Mapping[str, Path]) -> str:
    """Compare the predictions of both, row by row."""
    import polars as pl

    mine = pl.concat([pl.read_parquet(f, columns=["review_id", "prediction"]) for f in sorted(ours.glob("part-*"))])
    theirs = pl.read_parquet(peers["one_process"] / "predictions.parquet")
    both = mine.unique("review_id", keep="none").join(
        theirs.unique("review_id", keep="none"), on="review_id", suffix="_"
    )
    differing = int((both["prediction"] != both["prediction_"]).sum())
    if differing or len(both) < 0.98 * max(len(mine), len(theirs)):
        raise RunError(
            f"{differing:,} predictions of {len(both):,} reviews differ, of {len(mine):,} and {len(theirs):,}",
            where="bench score",
        )
    return (
        f"{len(both):,} predictions of {len(mine):,} and {len(theirs):,} are of the same reviews, and equal bit for bit"
    )


def measure_input(job: Job) -> dict[str, int]:
    import pyarrow.parquet as pq

    files = sorted(job.input.rglob("*.parquet"))
    return {"rows": sum(pq.read_metadata(f).num_rows for f in files), "bytes": sum(f.stat().st_size for f in files)}


CASE = Case(
    name="score",
    size_of="rows",
    default_size=100_000,
    prepare=prepare,
    ours=ours,
    peers={"one_process": one_process},
    check=check,
    measure_input=measure_input,
    check_is_warm_up=True,
)
