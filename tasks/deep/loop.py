"""One training loop for every model and every way to spread it over ranks.

    trained = train(build(model, seed=0), batches, config, loss=squared_error, plan=plan(parallel), folder=path)

A step, on every rank: agree on the step's weight and on who still has rows; forward and backward of each micro-batch;
agree on the loss; clip; update. The loss and its gradient are sums over all ranks and micro-batches, divided once by
the weight of all, so that neither short micro-batches nor ranks with fewer rows tilt them. What is decided (a step
skipped, training stopped) is decided from numbers that all ranks have added up, so they decide alike.

Needs the extra `deep`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from tasks.core.errors import RunError
from tasks.deep import checkpoints, updates
from tasks.deep.agreed import agreed
from tasks.deep.batches import Batch, Batches
from tasks.deep.loading import prefetched
from tasks.deep.losses import Loss
from tasks.deep.phases import during
from tasks.deep.plan import Plan
from tasks.deep.plan import plan as alone
from tasks.deep.settings import TrainingConfig
from tasks.deep.spread import Spread

# What may differ between a checkpoint and the training that goes on from it: it changes no weight.
FREE = {"checkpoint_every", "peak_flops", "max_skipped", "prefetch", "recompute"}


@dataclass(frozen=True)
class Step:
    """What a step did, for progress. step: from 0. loss: over all replicas, before the update; None: skipped, since it
    or its gradient was not finite. tokens: of all replicas. validation: the loss there, where this step evaluated.
    utilization: of peak_flops, where that is set."""

    step: int
    loss: float | None
    learning_rate: float
    gradient_norm: float
    tokens: int
    seconds: float
    validation: float | None = None
    utilization: float | None = None

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Trained:
    """weights: by name, whole, on rank 0's CPU, of the best evaluation where there were any; empty on other ranks.
    steps: done, skipped ones with them. losses: one a step, NaN where skipped. resumed: the step it went on from.
    validations: steps done and loss of each evaluation, those before a resumption too."""

    weights: dict[str, Tensor]
    steps: int
    skipped: int
    losses: list[float]
    best_step: int | None
    best_loss: float | None
    stopped_early: bool
    resumed: int
    validations: list[tuple[int, float]]


@dataclass
class _Course:
    """What changes from step to step beside tensors; goes into the checkpoint."""

    step: int = 0
    updates: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    losses: list[float | None] = field(default_factory=list)
    best_step: int | None = None
    best_loss: float | None = None
    worse: int = 0
    validations: list[list[float]] = field(default_factory=list)


def train(
    model: nn.Module,
    batches: Batches,
    config: TrainingConfig,
    *,
    loss: Loss,
    plan: Plan | None = None,
    validation: Callable[[], Iterable[Batch]] | None = None,
    folder: Path | None = None,
    identity: dict[str, Any] | None = None,
    on_step: Callable[[Step], None] | None = None,
    flops_per_token: float = 0.0,
) -> Trained:
    """Train until config.steps, the batches' end on every replica, or `patience` evaluations without a lower loss.

    model: called with tokens and mask (tasks/deep/encoder.py says how); it is changed. batches(first): this replica's
    batches of steps first, first + 1, ..., the same in every call (tasks/deep/batches.py). Replicas may have different
    numbers of rows, and of steps: none is lost. validation: this replica's batches, in each call. folder: for
    checkpoints, the same on all ranks; if it holds one, training goes on from there. identity: what the weights belong
    to, any JSON; a checkpoint of another identity or config is refused. on_step: called on every rank.

    Raises InputError for a checkpoint of another config, a model that the plan cannot cut, and a replica without rows;
    RunError for losses that are not finite and where memory ends; RankLost where another rank is gone.
    """
    training = Training(model, config, loss, plan or alone(), folder, identity)
    return training.run(batches, validation, on_step, flops_per_token)


class Training:
    """`train` in two parts, for whoever looks at what a rank holds: `spread`, `parameters`, `optimizer`."""

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        loss: Loss,
        plan: Plan,
        folder: Path | None,
        identity: dict[str, Any] | None,
    ) -> None:
        self.config, self.plan, self.folder = config, plan, folder
        self.scaler = updates.scaler(plan, config)
        self.spread = Spread(model, plan, config, loss)
        self.parameters = self.spread.parameters()
        self.optimizer = updates.adamw(self.parameters, plan, config)
        self.identity = {"training": config.model_dump(exclude=FREE), "of": identity or {}}
        self.course, self.best = _Course(), {}  # type: ignore[var-annotated]
        self._resume()

    def run(
        self,
        batches: Batches,
        validation: Callable[[], Iterable[Batch]] | None,
        on_step: Callable[[Step], None] | None,
        flops_per_token: float,
    ) -> Trained:
        course, config, resumed = self.course, self.config, self.course.step
        stopped = self._patience_is_over()
        steps = agreed(partial(self._ahead, batches), resumed, self.plan)
        while not stopped and course.step < config.steps:
            started, phase = time.perf_counter(), partial(during, self.plan.rank, course.step)
            with phase("data"):
                found = next(steps, None)
            if found is None:
                break
            batch, weight, tokens = found
            done = self._step(batch, weight, int(tokens), phase)
            if validation and config.evaluate_every and course.step % config.evaluate_every == 0:
                with during(self.plan.rank, course.step, "evaluation"):
                    done["validation"] = self._evaluate(validation)
                stopped = self._patience_is_over()
            if self.folder and config.checkpoint_every and course.step % config.checkpoint_every == 0:
                with during(self.plan.rank, course.step, "checkpoint"):
                    self._save(self.folder)
            if on_step:
                seconds = time.perf_counter() - started
                if config.peak_flops:
                    done["utilization"] = (
                        tokens * flops_per_token / (seconds * config.peak_flops * self.plan.world_size)
                    )
                on_step(Step(**done, seconds=seconds))
        return self._trained(resumed, stopped)

    def _ahead(self, batches: Batches, first: int) -> Iterator[Batch]:
        return prefetched(batches(first), self.config.prefetch, pinned=self.plan.device.type == "cuda")

    def _step(self, batch: Batch, weight: float, tokens: int, phase: Any) -> dict[str, Any]:
        course, rate = self.course, updates.learning_rate(self.config, self.course.step)
        self.optimizer.zero_grad(set_to_none=True)
        added = self.spread.backward(batch, weight or 1.0, self.scaler, phase)
        with phase("optimizer step"):
            (total,) = self.plan.totals(added, at_stage=-1)
            loss: float | None = total / weight if weight else math.nan
            self.scaler.unscale_(self.optimizer) if self.scaler.is_enabled() else None
            norm = updates.gradient_norm(self.parameters.values(), self.plan)
            if math.isfinite(loss or 0.0) and math.isfinite(norm):
                updates.clip(self.parameters.values(), norm, self.config.clip)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                self.optimizer.step()
                course.updates, course.skipped_in_a_row = course.updates + 1, 0
            elif self.scaler.is_enabled() and math.isfinite(loss or 0.0):
                pass  # float16's scale is too great, as it is meant to be at first: it is lowered below
            else:
                self._skip(total, weight, norm)
                loss = None
            # Infinite gradients lower its scale, finite ones raise it in time.
            self.scaler.update() if self.scaler.is_enabled() else None
        done = {"step": course.step, "loss": loss, "learning_rate": rate, "gradient_norm": norm, "tokens": tokens}
        course.losses.append(loss)
        course.step += 1
        return done

    def _skip(self, total: float, weight: float, norm: float) -> None:
        course = self.course
        course.skipped, course.skipped_in_a_row = course.skipped + 1, course.skipped_in_a_row + 1
        if self.config.on_nan == "stop" or course.skipped_in_a_row > self.config.max_skipped:
            last = f" for {course.skipped_in_a_row} steps in a row" if course.skipped_in_a_row > 1 else ""
            raise RunError(
                f"the loss is not finite{last}: {total:g} over a weight of {weight:g}, gradient norm {norm:g}",
                where=f"step {course.step}",
                fix="a lower learning_rate, clip, targets and weights that are numbers; on_nan=skip passes over a few",
            )

    def _evaluate(self, validation: Callable[[], Iterable[Batch]]) -> float:
        course, added, weights = self.course, 0.0, 0.0
        self.spread.module.eval()
        for batch, weight, _ in agreed(lambda _: validation(), 0, self.plan):
            added += self.plan.totals(self.spread.evaluate(batch), at_stage=-1)[0]
            weights += weight
        self.spread.trains_again()
        loss = added / weights if weights else math.nan
        course.validations.append([course.step, loss])
        if math.isfinite(loss) and (course.best_loss is None or loss < course.best_loss):
            course.best_step, course.best_loss, course.worse = course.step, loss, 0
            self.best = {name: p.detach().clone() for name, p in self.parameters.items()}
        else:
            course.worse += 1
        return loss

    def _patience_is_over(self) -> bool:
        return self.config.patience is not None and self.course.worse >= self.config.patience

    def _save(self, folder: Path) -> None:
        tensors = checkpoints.state(self.parameters, self.optimizer, self.best, self.plan)
        if self.plan.rank == 0:
            facts = {"identity": self.identity, "course": asdict(self.course), "scaler": self.scaler.state_dict()}
            checkpoints.write(folder, self.course.step, tensors, facts, self.plan.rank)

    def _resume(self) -> None:
        """Go on from the newest checkpoint. All ranks take the one that rank 0 finds: a rank may see a file later."""
        if self.folder is None:
            return
        facts = checkpoints.newest(self.folder, self.identity)
        step = int(facts["step"]) if facts else 0
        if self.plan.mesh is not None:
            agreed = torch.tensor([step], device=self.plan.device)
            distributed.broadcast(agreed, 0)
            step = int(agreed)
        if step == 0:
            return
        file = self.folder / f"step-{step:08d}.safetensors"
        checkpoints.opened(file)
        facts = checkpoints.facts_of(file)
        self.course = _Course(**facts["course"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(facts["scaler"])
        self.best = checkpoints.restore(file, self.parameters, self.optimizer, self.course.updates, self.plan)

    def _trained(self, resumed: int, stopped: bool) -> Trained:
        with during(self.plan.rank, self.course.step, "gathering"):
            kept = self.best or {name: p.detach() for name, p in self.parameters.items()}
            weights = checkpoints.gathered(kept, {}, {name: t.shape for name, t in kept.items()}, self.plan)
        course = self.course
        losses = [math.nan if loss is None else loss for loss in course.losses]
        return Trained(
            weights,
            course.step,
            course.skipped,
            losses,
            course.best_step,
            course.best_loss,
            stopped,
            resumed,
            [(int(step), loss) for step, loss in course.validations],
        )
