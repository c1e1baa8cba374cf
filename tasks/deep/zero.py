"""parallel.zero: replicas share what they would all hold (Rajbhandari and others, ZeRO, 2020).

    1  the optimizer's state: each parameter belongs to one rank, which updates it and broadcasts it
    2  gradients as well: each rank gets the mean of its part alone. Parameters are gathered once a step
    3  parameters as well: gathered for each layer when it is needed, forward and again backward, and dropped

With n parameters in float32 and AdamW, R replicas: 16 n bytes a rank become 8 n + 8 n / R, 16 n / R + 4 n while a step
computes, and 16 n / R and the greatest layer. 1 is ZeroRedundancyOptimizer; 2 and 3 are `fully_shard`, which keeps
parameters in parts between steps for both. Micro-batches (of accumulate and of a pipeline) add gradients up whole
before the last one sends them: 4 n more for 2 and 3. In a pipeline torch also keeps what 3 has gathered for a backward
pass until the last one; n is then a stage's.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim import AdamW

from tasks.deep.plan import DATA, Plan


def sharded(module: nn.Module, plan: Plan) -> nn.Module:
    """Share gradients and parameters among replicas, in place: layers one by one where the module names `layers`."""
    if plan.replicas == 1 or plan.config.zero < 2:
        return module
    options: dict[str, Any] = {"mesh": plan.axis(DATA), "reshard_after_forward": plan.config.zero == 3}
    layers = getattr(module, "layers", {})
    parts = [getattr(module, "embedding", None), *getattr(layers, "values", list)(), getattr(module, "head", None)]
    for part in parts:
        if part is not None:
            fully_shard(part, **options)
    fully_shard(module, **options)
    return module


def synchronize(module: nn.Module, last: bool) -> None:
    """Send gradients with the next backward pass only if it is the last of the step."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)


def dropped(module: nn.Module) -> None:
    """Drop parameters that were gathered for an evaluation: no backward pass does it."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def optimizer(groups: list[dict[str, Any]], plan: Plan, **options: Any) -> Any:
    """Return AdamW over the parameters that this rank holds; with ZeRO 1, over those that belong to it."""
    if plan.replicas > 1 and plan.config.zero == 1:
        return ZeroRedundancyOptimizer(groups, AdamW, process_group=plan.group(DATA), **options)
    return AdamW(groups, **options)


def local(optimizer: Any) -> Any:
    """The optimizer that holds this rank's state."""
    return optimizer.optim if isinstance(optimizer, ZeroRedundancyOptimizer) else optimizer


def owners(optimizer: Any) -> dict[Any, int]:
    """Which replica holds a parameter's state, by parameter; empty if all do, or each its part."""
    if not isinstance(optimizer, ZeroRedundancyOptimizer):
        return {}
    partition = optimizer._partition_parameters()  # no public name says it
    return {p: rank for rank, groups in enumerate(partition) for group in groups for p in group["params"]}
