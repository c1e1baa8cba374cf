"""A model as this rank has it, wrapped for its plan: forward and backward of a step, and losses without gradients."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tasks.core.errors import InputError
from tasks.deep import data_parallel, zero
from tasks.deep.batches import Batch, cut
from tasks.deep.losses import Loss
from tasks.deep.pipeline_parallel import Pipeline, stage_of
from tasks.deep.plan import Plan
from tasks.deep.settings import TrainingConfig
from tasks.deep.tensor_parallel import sliced

Phase = Callable[[str], AbstractContextManager[None]]


class Spread:
    """module: this rank's part under the whole model's names, so that checkpoints do not depend on the plan."""

    def __init__(self, model: nn.Module, plan: Plan, config: TrainingConfig, loss: Loss) -> None:
        if config.recompute:
            if not hasattr(model, "recompute"):
                raise InputError("this model cannot compute its layers again", where="recompute", fix="recompute=false")
            model.recompute = True
        if plan.layout.pipeline > 1 and config.accumulate > 1:
            raise InputError(
                f"accumulate={config.accumulate} is not for a pipeline",
                where="training.accumulate",
                fix="parallel.micro_batches, which cuts a step in a pipeline",
            )
        self.plan, self.config, self.loss = plan, config, loss
        # This rank's part alone moves to its device; `fully_shard` moves a layer's part at a time.
        whole = sliced(stage_of(model, plan), plan)
        self.shared = plan.replicas > 1 and plan.config.zero >= 2
        if not self.shared:
            whole = whole.to(plan.device)
        self.module = zero.sharded(whole, plan)
        self.called = self.module if self.shared else data_parallel.replicated(self.module, plan)
        self.pipeline = Pipeline(self.called, plan, loss) if plan.layout.pipeline > 1 else None
        self._own_average = plan.replicas > 1 and self.called is self.module and not self.shared

    def parameters(self) -> dict[str, Tensor]:
        return dict(self.module.named_parameters())

    def backward(self, batch: Batch, total_weight: float, scaler: Any, phase: Phase) -> float:
        """Return this replica's sum of weighted losses, and leave gradients of the mean loss over all replicas.

        Gradients are averaged over replicas, so a replica's are scaled by replicas / total_weight. With a pipeline the
        sum is on its last stage.
        """
        scale = self.plan.replicas / total_weight
        if self.pipeline is not None:
            with phase("forward and backward"), self.autocast():
                added = self.pipeline.run(self._here(batch), scale, training=True)
        else:
            added = self._micro_batches(batch, scale, scaler, phase)
        if self._own_average:
            with phase("all-reduce"):
                parts = [p.grad for p in self.module.parameters() if p.grad is not None]
                data_parallel.average([g.to_local() if isinstance(g, DTensor) else g for g in parts], self.plan)
        return added

    def _micro_batches(self, batch: Batch, scale: float, scaler: Any, phase: Phase) -> float:
        added = torch.zeros((), device=self.plan.device)
        pieces = cut(self._here(batch), self.config.accumulate)
        for i, piece in enumerate(pieces):
            last = i == len(pieces) - 1
            zero.synchronize(self.module, last)
            with data_parallel.synchronizing(self.called, last):
                with phase("forward"), self.autocast():
                    part = self._weighted(piece)
                with phase("backward"):
                    scaler.scale(part * scale).backward()
            added += part.detach()
        return float(added)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def evaluate(self, batch: Batch) -> float:
        """Return this replica's sum of weighted losses."""
        with self.autocast():
            if self.pipeline is not None:
                return self.pipeline.run(self._here(batch), 1.0, training=False)
            # Not through DistributedDataParallel: replicas may have different numbers of batches.
            return float(self._weighted(self._here(batch), self.module))

    def trains_again(self) -> None:
        """After evaluations."""
        zero.dropped(self.module)
        self.module.train()

    def _weighted(self, batch: Batch, module: nn.Module | None = None) -> Tensor:
        outputs = (module or self.called)(batch["tokens"], batch["mask"])
        return (self.loss(outputs, batch["target"]) * batch["weight"]).sum()

    def _here(self, batch: Batch) -> Batch:
        return {name: tensor.to(self.plan.device, non_blocking=True) for name, tensor in batch.items()}

    def autocast(self) -> Any:
        kind = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[self.config.precision]
        return torch.autocast(self.plan.device.type, dtype=kind or torch.bfloat16, enabled=kind is not None)
