"""The same training on a GPU and on the CPU: a text model, boosted trees, a convolutional network.

In: the text model of `raymill bench deep` (32 rows of 128 tokens a step, float32 and bfloat16); `--size` rows of the 40
features of `raymill bench train`, 100 rounds on Ray Train; 1,000 drawn JPEGs for the network of tasks/deep/cnn.py. Out:
losses. `ours` trains where `device: auto` does: on a GPU where there is one. The peer is the CPU with `--workers`
threads, so give it all cores; it is left out where there is no GPU, as ours is the same there.

Losses must be alike: of the text model within 1e-3 in float32 and 0.05 in bfloat16, of the trees within 1%, of the
network within 0.05. Wall seconds are of all together; by part they and rows a second are beside them. Each part begins
with steps that are not timed; start-up of Ray's workers is not either, but the trees' time has that of CUDA in them.

    raymill bench gpu [--size ROWS] [--workers W] [--runs 3] [--json FILE|-]
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases.deep import MODEL
from benchmarks.cases.train import FEATURES, PARAMS, ROUNDS, write_rows
from benchmarks.harness import Case, SelfTimed, Setup
from benchmarks.inputs import SEED, kept
from benchmarks.machine import gpu, needs_torch
from benchmarks.sides import start_ray
from tasks.deep.settings import CnnConfig, TrainingConfig

WARM_UP, STEPS, STEP_ROWS = 3, 20, 32
PICTURES, PICTURE_STEPS, STEP_PICTURES = 1000, 100, 64
NETWORK = CnnConfig()
LIMITS = {"text": 1e-3, "text_bfloat16": 0.05, "trees": 0.01, "network": 0.05}


@dataclass(frozen=True)
class Job:
    """files: of the trees' rows. pictures: rows of the network."""

    files: tuple[Path, ...]
    pictures: Any
    workers: int
    scratch: Path


@dataclass(frozen=True)
class Output:
    """Losses by part, of each step; of the trees, the last one."""

    losses: dict[str, list[float]]


def prepare(setup: Setup) -> Job:
    needs_torch("gpu", "gpu")
    import torch

    from tasks.deep import pictures

    folder = kept(f"train-{setup.size}-{SEED}", partial(write_rows, setup.size))
    start_ray(setup)
    setup.cleanup.callback(torch.set_num_threads, torch.get_num_threads())
    torch.set_num_threads(setup.workers)
    # By default convolutions on a GPU round to 10 bits (TF32); matrix products do not.
    setup.cleanup.callback(setattr, torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
    torch.backends.cudnn.allow_tf32 = False
    rows = pictures.rows_made(PICTURES, NETWORK.side, SEED)
    return Job(tuple(sorted(folder.glob("*.parquet"))), rows, setup.workers, setup.scratch)


def run(wanted: str, job: Job) -> SelfTimed:
    """wanted: auto or cpu."""
    device = "cuda" if wanted == "auto" and gpu() else "cpu"
    parts: dict[str, Callable[[], tuple[list[float], float, int]]] = {
        "text": lambda: text(device, "float32"),
        "text_bfloat16": lambda: text(device, "bfloat16"),
        "trees": lambda: trees(wanted, job),
        "network": lambda: network(device, job.pictures),
    }
    losses: dict[str, list[float]] = {}
    notes: dict[str, float] = {}
    for name, part in parts.items():
        losses[name], seconds, rows = part()
        notes |= {f"{name}_s": seconds, f"{name}_per_s": rows / seconds}
    return SelfTimed(sum(notes[f"{name}_s"] for name in parts), Output(losses), notes)


def text(device: str, precision: str) -> tuple[list[float], float, int]:
    """Train the text model; return losses, seconds of the timed steps and their tokens."""
    from tasks.deep.encoder import build
    from tasks.deep.launch import synthetic
    from tasks.deep.losses import squared_error

    config = TrainingConfig(steps=WARM_UP + STEPS, precision=precision)  # type: ignore[arg-type]
    return trained(build(MODEL, 0), synthetic(4 * STEP_ROWS, MODEL), STEP_ROWS, config, squared_error, device)


def network(device: str, pictures: Any) -> tuple[list[float], float, int]:
    """Train the convolutional network; return losses, seconds of the timed steps and their pictures."""
    from tasks.deep.cnn import build
    from tasks.deep.losses import classes
    from tasks.deep.pictures import SHAPES

    config = TrainingConfig(steps=WARM_UP + PICTURE_STEPS, learning_rate=0.003)
    return trained(build(NETWORK, len(SHAPES), 0), pictures, STEP_PICTURES, config, classes, device)


def trained(
    model: Any, rows: Any, step_rows: int, config: TrainingConfig, loss: Any, device: str
) -> tuple[list[float], float, int]:
    from tasks.deep.batches import ShuffledRows
    from tasks.deep.loop import Step, train
    from tasks.deep.plan import plan

    ends: list[float] = []
    tokens: list[int] = []

    def told(step: Step) -> None:
        ends.append(time.perf_counter())  # a step ends with its loss on the CPU, so with all that the GPU had to do
        tokens.append(step.tokens)

    done = train(model, ShuffledRows(rows, step_rows), config, loss=loss, plan=plan(device=device), on_step=told)
    return done.losses, ends[-1] - ends[WARM_UP - 1], sum(tokens[WARM_UP:])


def trees(wanted: str, job: Job) -> tuple[list[float], float, int]:
    """Train on Ray Train; return the last loss, seconds of binning and rounds, and rows times rounds."""
    import pyarrow.parquet as pq

    from tasks.engines import ray_train
    from tasks.engines.train_job import TrainJob

    with tempfile.TemporaryDirectory(dir=job.scratch) as folder:
        plan = TrainJob(
            train=job.files,
            valid=(),
            features=FEATURES,
            target="rating",
            params=PARAMS,
            seed=SEED,
            rounds=ROUNDS,
            folder=Path(folder),
            threads=job.workers,
            device=ray_train.device(wanted),  # type: ignore[arg-type]
        )
        done = ray_train.fit(plan, workers=1)
    rows = sum(pq.read_metadata(file).num_rows for file in job.files)
    return [done.curves["train"][-1]], done.seconds["matrix"] + done.seconds["rounds"], rows * ROUNDS


def check(job: Job, ours: Output, peers: Mapping[str, Output]) -> str:
    for name, output in {"ours": ours, **peers}.items():
        assert np.isfinite([loss for losses in output.losses.values() for loss in losses]).all(), f"a loss of {name}"
    first, last = ours.losses["network"][0], ours.losses["network"][-1]
    assert last < first, f"the network learned nothing: loss {first:.3f}, then {last:.3f}"
    if "cpu" not in peers:
        return "nothing to compare: without a GPU, ours trains on the CPU"
    found = []
    for name, limit in LIMITS.items():
        pairs = list(zip(ours.losses[name], peers["cpu"].losses[name], strict=True))
        apart = max(abs(a - b) / (b if name == "trees" else 1) for a, b in pairs)
        assert apart <= limit, f"a loss of {name} on the GPU is {apart:.1e} from that on the CPU"
        found.append(f"{name} {apart:.1e}")
    return f"losses are those of the CPU, apart by: {', '.join(found)}"


def details(job: Job, runs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: {"device": (name == "ours" and gpu()) or "cpu"} for name in runs}


def skip(size: int) -> Mapping[str, str]:
    return {} if gpu() else {"cpu": "no GPU here that torch can use, so ours trained on the CPU"}


CASE = Case(
    name="gpu",
    size_of="rows",
    default_size=1_000_000,
    prepare=prepare,
    ours=partial(run, "auto"),
    peers={"cpu": partial(run, "cpu")},
    check=check,
    details=details,
    keeps_outputs=False,
    check_is_warm_up=True,
    skip=skip,
)
