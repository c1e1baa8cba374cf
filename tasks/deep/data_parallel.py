"""parallel.data: each replica has the whole model and its own rows; gradients are averaged before the update.

DistributedDataParallel sends gradients in buckets while earlier layers still compute theirs. Between micro-batches of a
step it must not: `synchronizing(last=False)` adds gradients up locally, and the last micro-batch sends their sum once.
With sliced layers (parallel.tensor), whose parameters it does not know, buckets are sent after the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from tasks.deep.cnn import Cnn
from tasks.deep.encoder import Encoder
from tasks.deep.plan import DATA, Plan


def replicated(module: nn.Module, plan: Plan) -> nn.Module:
    """Return the module to call: its gradients are means over the replicas."""
    if plan.replicas == 1 or plan.layout.tensor > 1:
        return module
    return DistributedDataParallel(
        module,
        process_group=plan.group(DATA),
        bucket_cap_mb=plan.config.bucket_mb,
        gradient_as_bucket_view=True,
        find_unused_parameters=keeps_buckets(module, plan),
        init_sync=False,  # all ranks made the same weights from the seed, or read them from the same file
    )


def keeps_buckets(module: nn.Module, plan: Plan) -> bool:
    """Return whether the search for unused parameters is needed, which costs a walk of the graph and a warning.

    Without it buckets are laid out anew after the first backward pass. Sums of three replicas and more are then made in
    another order, so training that goes on from a checkpoint would not give the same bits. The built-in models have no
    unused parameters; of another module it is not known.
    """
    return plan.replicas > 2 or not isinstance(module, Encoder | Cnn)


def synchronizing(module: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """For forward and backward of a micro-batch."""
    if isinstance(module, DistributedDataParallel) and not last:
        held_back: AbstractContextManager[Any] = module.no_sync()
        return held_back
    return nullcontext()


def average(gradients: Iterable[Tensor], plan: Plan) -> None:
    """Average gradients over the replicas, in place, in buckets: for what DistributedDataParallel does not wrap."""
    bucket: list[Tensor] = []
    limit, size = plan.config.bucket_mb * 2**20, 0
    for gradient in (*gradients, None):
        if bucket and (gradient is None or size + gradient.nbytes > limit):
            flat = torch.cat([g.flatten() for g in bucket])
            distributed.all_reduce(flat, group=plan.group(DATA))
            for g, mean in zip(bucket, (flat / plan.replicas).split([g.numel() for g in bucket]), strict=True):
                g.copy_(mean.view_as(g))
            bucket, size = [], 0
        if gradient is not None:
            bucket.append(gradient)
            size += gradient.nbytes
