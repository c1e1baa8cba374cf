"""parallel.pipeline: groups of layers on different ranks, which work on different micro-batches at a time.

    gpipe   all micro-batches forward, then all backward                     m activations in memory
    1f1b    as soon as there is one to go back, forward and back in turn     p activations in memory

Either way a rank is idle for (p - 1) of the (m + p - 1) times of a micro-batch, if all stages take the same: the bubble
(Huang and others, GPipe, 2019; Narayanan and others, PipeDream, 2019). Micro-batches have equal shapes: short ones get
rows of no weight.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from tasks.core.errors import InputError
from tasks.deep.batches import Batch, filled
from tasks.deep.encoder import Encoder
from tasks.deep.losses import Loss
from tasks.deep.pipeline_schedules import EagerSchedule
from tasks.deep.plan import PIPELINE, Plan

SCHEDULES = {
    "cpu": {"gpipe": partial(EagerSchedule, "gpipe"), "1f1b": partial(EagerSchedule, "1f1b")},
    "cuda": {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B},
}


def stage_of(module: nn.Module, plan: Plan) -> nn.Module:
    """Leave this rank its layers, in place; stages may differ by one. Raises InputError for too few layers."""
    stages, stage = plan.layout.pipeline, plan.stage
    if stages == 1:
        return module
    if not isinstance(module, Encoder):
        raise InputError("only the built-in encoder is cut in stages", where="parallel.pipeline", fix="pipeline=1")
    if len(module.layers) < stages:
        raise InputError(
            f"{len(module.layers)} layers in {stages} stages",
            where="parallel.pipeline",
            fix="more layers, fewer stages",
        )
    mine = [str(int(i)) for i in torch.tensor_split(torch.arange(len(module.layers)), stages)[stage]]
    module.layers = nn.ModuleDict({name: module.layers[name] for name in mine})
    if stage > 0:
        module.embedding = None
    if stage < stages - 1:
        module.head = None
    return module


class Pipeline:
    """Runs micro-batches through the stages. module: this rank's, wrapped for its replicas."""

    def __init__(self, module: nn.Module, plan: Plan, loss: Loss) -> None:
        self.module, self.plan, self.loss, self.scale = module, plan, loss, 1.0
        self._schedules: dict[tuple[Any, ...], Any] = {}

    def run(self, batch: Batch, scale: float, *, training: bool) -> float:
        """Return the sum of weighted losses on the last stage, 0 on others; add its gradients times scale."""
        count, stages = self.plan.config.micro_batches, self.plan.layout.pipeline
        batch = filled(batch, -(-len(batch["tokens"]) // count) * count)
        # The stages' buffers have one shape, and evaluation gets stages of its own, so that it need not be told twice.
        shape = (training, *batch["tokens"].shape)
        if shape not in self._schedules:
            stage = PipelineStage(
                self.module, self.plan.stage, stages, self.plan.device, group=self.plan.group(PIPELINE)
            )
            kind = SCHEDULES[self.plan.device.type][self.plan.config.schedule]
            self._schedules[shape] = kind(stage, count, loss_fn=self._weighted, scale_grads=False)
        schedule = self._schedules[shape]
        self.scale = scale
        inputs = (batch["tokens"],) if self.plan.stage == 0 else ()
        last = self.plan.stage == stages - 1
        # The target travels as one tensor; ids below 2^24 are exact in float32.
        target = torch.stack([batch["target"].float(), batch["weight"]], dim=-1) if last else None
        losses: list[Tensor] | None = [] if last else None
        go = schedule.step if training else schedule.eval
        more = {"return_outputs": False} if training else {}
        go(*inputs, target=target, losses=losses, mask=batch["mask"], **more)
        return sum(float(loss.detach()) for loss in losses) / scale if losses else 0.0

    def _weighted(self, outputs: Tensor, target: Tensor) -> Tensor:
        label, weight = target.unbind(-1)
        label = label if outputs.dim() < 3 else label.long()
        return (self.loss(outputs, label) * weight).sum() * self.scale
