"""One training loop for every model and every way to spread it over ranks.

    trained = train(model, batches, config, loss=squared_error, plan=plan, ...)

A draft of the interface: the body follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tasks.deep.batches import Batch
from tasks.deep.losses import Loss
from tasks.deep.settings import TrainingConfig


@dataclass(frozen=True)
class Step:
    """What a step did, for progress. loss: over all ranks, before the step's update; None: skipped, as it was not
    finite. validation: the loss there, where this step evaluated. utilization: of peak_flops, where that is set."""

    step: int
    loss: float | None
    learning_rate: float
    gradient_norm: float
    tokens: int
    seconds: float
    validation: float | None = None
    utilization: float | None = None


@dataclass(frozen=True)
class Trained:
    """weights: by name, whole, on the CPU, of the best evaluation where there were some; on rank 0, empty on others."""

    weights: dict[str, Tensor]
    steps: int
    skipped: int
    losses: list[float]
    best_step: int | None
    best_loss: float | None
    stopped_early: bool


def train(
    model: nn.Module,
    batches: Callable[[int], Iterable[Batch]],
    config: TrainingConfig,
    *,
    loss: Loss,
    plan: Any = None,
    validation: Callable[[], Iterable[Batch]] | None = None,
    folder: Path | None = None,
    identity: dict[str, Any] | None = None,
    on_step: Callable[[Step], None] | None = None,
    flops_per_token: float = 0.0,
    device: str = "cpu",
) -> Trained:
    """Train until config.steps, the batches' end on every rank, or no better validation loss.

    batches(first): this replica's batches of steps first, first + 1, ..., the same in every call. Replicas may have
    different numbers of rows, and of steps: none is lost. folder: for checkpoints, the same on all ranks; if it holds
    one, training goes on from there. identity: what the weights belong to, any JSON; a checkpoint of another identity
    or config is refused. plan: how ranks share the work (tasks/deep/plan.py); None: one process.

    Raises InputError for a checkpoint of another config or a world size that the plan does not fit, RunError for losses
    that are not finite, RankLost where another rank is gone.
    """
    raise NotImplementedError
