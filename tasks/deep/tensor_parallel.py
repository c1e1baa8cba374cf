"""parallel.tensor: every layer is cut in slices (Shoeybi and others, Megatron-LM, 2019).

    query, key, value, up    by columns of their outputs: a rank has some heads and some hidden columns
    out, down                by rows of the same columns: partial sums, added up by one all-reduce each

So a layer needs two all-reduces forward and two backward, of (n, T, width) each: query, key and value share theirs.
Embedding, norms and head are whole on every rank, and get the same gradients everywhere.
"""

from __future__ import annotations

from torch import nn
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)

from tasks.core.errors import InputError
from tasks.deep.encoder import Encoder
from tasks.deep.plan import TENSOR, Plan


def sliced(module: nn.Module, plan: Plan) -> nn.Module:
    """Cut the layers in place. Raises InputError for a model that cannot be cut so."""
    slices = plan.layout.tensor
    if slices == 1:
        return module
    if not isinstance(module, Encoder):
        raise InputError("only the built-in encoder is cut in slices", where="parallel.tensor", fix="tensor=1")
    for name, count in (("heads", module.config.heads), ("hidden", module.config.hidden)):
        if count % slices:
            raise InputError(
                f"{count} {name} in {slices} slices", where="parallel.tensor", fix=f"{name} that {slices} divides"
            )
    whole = (Replicate(), None)  # h; the mask is an ordinary tensor
    by_name = {
        # One tensor for all three projections, whose gradients are added before they are all-reduced.
        "attention": PrepareModuleInput(input_layouts=whole, desired_input_layouts=whole),
        **{f"attention.{name}": ColwiseParallel() for name in ("query", "key", "value")},
        "attention.out": RowwiseParallel(),
        "up": ColwiseParallel(),
        "down": RowwiseParallel(),
    }
    for layer in module.layers.values():
        parallelize_module(layer, plan.axis(TENSOR), by_name, src_data_rank=None)  # all have the same weights
    return module
