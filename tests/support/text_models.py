"""A tiny text model and its rows, trained in ranks: what these functions return travels between processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from tasks.deep import cnn
from tasks.deep.agreed import same_on_all_ranks
from tasks.deep.batches import Batch, ShuffledRows
from tasks.deep.encoder import build
from tasks.deep.loop import Trained, Training, train
from tasks.deep.losses import classes, next_token, squared_error
from tasks.deep.plan import plan
from tasks.deep.settings import CnnConfig, EncoderConfig, ParallelConfig, TrainingConfig

# Twelve heads: 1 to 4 slices. Four layers: 1 to 4 stages.
MODEL = EncoderConfig(vocabulary=61, positions=8, width=24, heads=12, layers=4, hidden=48, outputs=2)
TRAINING = TrainingConfig(steps=8, learning_rate=3e-3, warm_up=2, clip=0.5, evaluate_every=4)
DATA = ParallelConfig()
STEP_ROWS = 10


def made_rows(count: int = 37, model: EncoderConfig = MODEL, seed: int = 0) -> Batch:
    """Rows of different lengths; some of their targets are missing."""
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, model.vocabulary, (count, model.positions), generator=random)
    mask = torch.arange(model.positions) < torch.randint(1, model.positions + 1, (count, 1), generator=random)
    if model.objective == "next-token":
        return {"tokens": tokens, "mask": mask, "target": tokens.roll(-1, 1), "weight": mask.float()}
    target = torch.randn(count, model.outputs, generator=random)
    weight = (torch.rand(count, model.outputs, generator=random) < 0.8).float()
    return {"tokens": tokens, "mask": mask, "target": target, "weight": weight}


@dataclass(frozen=True)
class Run:
    """One training. 37 rows in steps of 10: the last step of an epoch has 7, which no number of replicas divides."""

    parallel: ParallelConfig = DATA
    training: TrainingConfig = TRAINING
    model: EncoderConfig = MODEL
    rows: int = 37
    folder: Path | None = None
    spoilt_step: int | None = None  # its targets are not numbers

    def with_(self, **changes: Any) -> Run:
        return replace(self, **changes)


@dataclass(frozen=True)
class Outcome(Trained):
    """norms: of each step's gradient. Adam does not see its scale: weights alone would not show a wrong one."""

    norms: list[float]


def train_one(run: Run) -> Outcome:
    """Train on this rank."""
    norms: list[float] = []
    place = plan(run.parallel)
    rows = made_rows(run.rows, run.model)
    batches = ShuffledRows(rows, STEP_ROWS, 0, place.replica, place.replicas)
    held_out = ShuffledRows(made_rows(11, run.model, 1), 11, 0, place.replica, place.replicas, epochs=1)

    def spoilt(first: int) -> Any:
        for step, batch in enumerate(batches(first), first):
            yield {**batch, "target": batch["target"] * torch.nan} if step == run.spoilt_step else batch

    trained = train(
        build(run.model, 0),
        batches if run.spoilt_step is None else spoilt,
        run.training,
        loss=next_token if run.model.objective == "next-token" else squared_error,
        plan=place,
        validation=lambda: held_out(0),
        folder=run.folder,
        identity={"model": run.model.model_dump()},
        on_step=lambda step: norms.append(step.gradient_norm),
    )
    return Outcome(**vars(trained), norms=norms)


def train_all(runs: Sequence[Run]) -> list[Outcome]:
    """Train one after the other: starting ranks takes longer than a tiny training."""
    return [train_one(run) for run in runs]


def train_pictures(ways: Sequence[tuple[ParallelConfig, int]]) -> list[Outcome]:
    """Train a tiny convolutional network on 37 random pictures on this rank, for each setting and its micro-batches."""
    random = torch.Generator().manual_seed(0)
    rows = {
        "tokens": torch.randint(0, 256, (37, 1, 8, 8), dtype=torch.uint8, generator=random),
        "mask": torch.ones(37, 1, dtype=torch.bool),
        "target": torch.randint(0, 3, (37, 1), generator=random).float(),
        "weight": torch.ones(37, 1),
    }
    outcomes = []
    for parallel, accumulate in ways:
        place, norms = plan(parallel), list[float]()
        trained = train(
            cnn.build(CnnConfig(side=8, channels=8, layers=2), 3, seed=0),
            ShuffledRows(rows, STEP_ROWS, 0, place.replica, place.replicas),
            TrainingConfig(steps=8, warm_up=2, clip=0.5, accumulate=accumulate),
            loss=classes,
            plan=place,
            on_step=lambda step, norms=norms: norms.append(step.gradient_norm),  # type: ignore[misc]
        )
        outcomes.append(Outcome(**vars(trained), norms=norms))
    return outcomes


def agree(digests: Sequence[str]) -> None:
    place = plan()
    same_on_all_ranks(digests[place.rank], "the rows", place)


def gradients_sent(zero: int, accumulate: int, steps: int) -> int:
    """Train on this rank, and return how often gradients were sent."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    place = plan(ParallelConfig(zero=zero))  # type: ignore[arg-type]
    config = TrainingConfig(steps=steps, accumulate=accumulate)
    training = Training(build(MODEL, 0), config, squared_error, place, None, None)
    sent: list[Any] = []

    def hook(state, bucket):  # type: ignore[no-untyped-def]  # torch reads annotations, if there are any
        sent.append(bucket)
        return allreduce_hook(state, bucket)

    def scatter(**given: Any) -> Any:
        sent.append(given)
        return plain(**given)

    plain = distributed.reduce_scatter_single
    if zero == 0:
        training.spread.called.register_comm_hook(None, hook)
    else:
        distributed.reduce_scatter_single = scatter  # what fully_shard calls
    training.run(ShuffledRows(made_rows(), STEP_ROWS, 0, place.replica, place.replicas), None, None, 0.0)
    distributed.reduce_scatter_single = plain
    return len(sent)


def all_gradients_sent(cases: Sequence[tuple[int, int]], steps: int) -> list[int]:
    return [gradients_sent(zero, accumulate, steps) for zero, accumulate in cases]
