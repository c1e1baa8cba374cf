"""Communication that torch differentiates: what goes forward one way comes back the other way as gradients.

    forward            backward
    all-reduce         nothing: every rank has the whole gradient already
    nothing            all-reduce: every rank has a part of the gradient
    all-to-all         all-to-all, the other way round

The first two are Megatron's g and f (Shoeybi and others, Megatron-LM, 2019, section 3). Needs the extra `lab`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tasks.parallel.allreduce import allreduce
from tasks.parallel.comm import Comm


def reduced(comm: Comm, tensor: Tensor) -> Tensor:
    """Return the sum of all ranks' tensors; its gradient is passed on as it is."""
    return _Reduced.apply(comm, tensor)


def shared(comm: Comm, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors, which are the same on all ranks; the ranks' gradients of them are added in one all-reduce."""
    return tuple(_Shared.apply(comm, *tensors))


def exchanged(comm: Comm, rows: Tensor, counts: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Send `counts[r]` rows to each rank r, in order; return the rows received, in rank order, and how many from each.

    rows: (sum of counts, d).
    """
    received = [0] * comm.world_size
    return _Exchanged.apply(comm, rows, list(counts), received), received


def sum_of(comm: Comm, tensor: Tensor) -> Tensor:
    """All-reduce without a gradient."""
    if comm.world_size == 1:
        return tensor
    return torch.from_numpy(allreduce(comm, tensor.detach().numpy()))


def all_to_all(comm: Comm, pieces: Sequence[Tensor]) -> list[Tensor]:
    """Send piece r to rank r and return what the ranks sent. Each step is a permutation: no rank is sent to by two."""
    received = list(pieces)
    for step in range(1, comm.world_size):
        to, source = (comm.rank + step) % comm.world_size, (comm.rank - step) % comm.world_size
        piece = pieces[to].detach().contiguous().numpy()
        # A copy, since Ray's arrays are read-only.
        received[source] = torch.tensor(comm.send_recv(to, piece, source))
    return received


class _Reduced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, comm: Comm, tensor: Tensor) -> Tensor:
        return sum_of(comm, tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        return (None, *gradients)


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, comm: Comm, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.comm = comm
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        total = sum_of(ctx.comm, torch.cat([g.reshape(-1) for g in gradients]))
        parts = total.split([g.numel() for g in gradients])
        return (None, *(part.view_as(g) for part, g in zip(parts, gradients, strict=True)))


class _Exchanged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, comm: Comm, rows: Tensor, counts: list[int], received: list[int]) -> Tensor:
        ctx.comm, ctx.received = comm, received
        pieces = all_to_all(comm, rows.split(counts))
        received[:] = [len(piece) for piece in pieces]
        return torch.cat(pieces)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        return None, torch.cat(all_to_all(ctx.comm, gradients[0].split(ctx.received))), None, None
