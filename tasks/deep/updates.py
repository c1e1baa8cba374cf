"""The update of a step: the learning rate's course, the norm of all gradients, AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from tasks.core.errors import InputError
from tasks.deep import zero
from tasks.deep.plan import AXES, PIPELINE, Plan
from tasks.deep.settings import TrainingConfig


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Return the rate of a step, from 0: up in a line, then down in a line or half a cosine, to 0 at `steps`."""
    if step < config.warm_up:
        return config.learning_rate * (step + 1) / config.warm_up
    done = (step - config.warm_up) / max(1, config.steps - config.warm_up)
    left = {"none": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[config.decay]
    return config.learning_rate * left


def adamw(parameters: dict[str, Tensor], plan: Plan, config: TrainingConfig) -> Any:
    """Return the optimizer. Norms and biases do not decay."""
    groups: dict[Any, list[Tensor]] = {}
    for p in parameters.values():
        # One fused update takes parameters of one mesh: parallel.tensor cuts some of them only.
        axes = p.device_mesh.mesh_dim_names if isinstance(p, DTensor) else None
        groups.setdefault((p.dim() > 1, axes), []).append(p)
    listed = [
        {"params": group, "weight_decay": config.weight_decay if decays else 0.0}
        for (decays, _), group in groups.items()
    ]
    return zero.optimizer(listed, plan, lr=config.learning_rate, fused=True)


def scaler(plan: Plan, config: TrainingConfig) -> Any:
    """Return the scaler of losses for float16, which does nothing for others. Raises InputError where there is none."""
    half = config.precision == "float16"
    if half and plan.device.type != "cuda":
        raise InputError("float16 trains on a GPU only", where="precision", fix="bfloat16 or float32")
    if half and (plan.config.zero > 1 or plan.layout.tensor * plan.layout.pipeline > 1):
        raise InputError("float16 needs whole gradients", where="precision", fix="bfloat16, or parallel.data alone")
    if (
        config.precision == "bfloat16"
        and plan.device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise InputError("this GPU has no bfloat16", where="precision", fix="float16 or float32")
    return torch.amp.GradScaler(plan.device.type, enabled=half)


@torch.no_grad()  # type: ignore[untyped-decorator]
def gradient_norm(parameters: Iterable[Tensor], plan: Plan) -> float:
    """Return the norm over all parameters, whichever ranks hold their parts: each part is counted once."""
    sums: dict[tuple[str, ...], Tensor] = {(): torch.zeros((), device=plan.device)}
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        axes: tuple[str, ...] = ()
        if isinstance(gradient, DTensor):
            placed = zip(gradient.device_mesh.mesh_dim_names or (), gradient.placements, strict=True)
            axes = tuple(name for name, placement in placed if not placement.is_replicate())
            gradient = gradient.to_local()
        sums[axes] = sums.get(axes, 0) + gradient.float().square().sum()
    for axes in sorted(sums):  # the same order on all ranks of a stage
        for axis in AXES:
            if axis in axes:
                plan.sum_over(axis, sums[axes])
    total = torch.stack(list(sums.values())).sum()
    return math.sqrt(float(plan.sum_over(PIPELINE, total)))


@torch.no_grad()  # type: ignore[untyped-decorator]
def clip(parameters: Iterable[Tensor], norm: float, limit: float | None) -> None:
    """Scale all gradients down to the norm `limit`."""
    if limit is None or norm <= limit:
        return
    for parameter in parameters:
        if (gradient := parameter.grad) is not None:
            (gradient.to_local() if isinstance(gradient, DTensor) else gradient).mul_(limit / norm)
