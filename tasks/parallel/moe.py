"""A mixture of experts, with its experts spread over ranks, cut across ranks, or both.

    gates   = the k greatest of softmax(x router), scaled to the sum 1
    y       = sum over a row's k experts e of  gate_e relu(x W1_e) W2_e

*Expert parallel*: rank r holds some experts and some rows. Rows travel to their experts by all-to-all, the answers come
back by another. *Tensor parallel*: every rank holds all rows and a slice of each expert: columns of W1, the same rows
of W2. The relu is by columns, so nothing is exchanged between the layers, and one all-reduce of the gated sum serves
all experts. *Both*: ranks are a grid of expert groups and slices.

An expert takes at most `capacity` rows, the rest lose it (their gate counts as nothing): first all rows' first choices
in row order, then the second ones. The ranks agree on that order by exchanging counts, so any grid gives what one
process gives. (Lepikhin and others, GShard, 2020; Fedus and others, Switch Transformers, 2021; Shoeybi and others,
Megatron-LM, 2019.)

With b rows, width d, W ranks: forward, tensor parallel sends 2 (W-1)/W b d numbers a rank in 2 (W-1) messages; expert
parallel 2 k b d (W-1)/W² in 2 (W-1) messages. Backward the same again. Needs the extra `lab`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from tasks.core.errors import InputError
from tasks.parallel.autograd import all_to_all, exchanged, reduced, shared, sum_of
from tasks.parallel.comm import Comm
from tasks.parallel.comm_part import SubComm


@dataclass(frozen=True)
class Grid:
    """How the ranks share the work: `groups` of experts, each expert in `slices`. Rank r is slice r % slices."""

    groups: int
    slices: int

    def split(self, comm: Comm) -> tuple[SubComm, SubComm]:
        """Return the ranks of this rank's slice, one of each group, and those of its group, one of each slice."""
        if self.groups * self.slices != comm.world_size:
            raise InputError(
                f"{self.groups} groups of {self.slices} slices on {comm.world_size} ranks",
                where="mixture of experts",
                fix="their product must be the number of ranks",
            )
        group, part = divmod(comm.rank, self.slices)
        across = [g * self.slices + part for g in range(self.groups)]
        within = [group * self.slices + s for s in range(self.slices)]
        return SubComm(comm, across), SubComm(comm, within)


class Experts(NamedTuple):
    """router: (d, E); first: (E, d, h); second: (E, h, o). A rank holds the whole router and its part of the others."""

    router: Tensor
    first: Tensor
    second: Tensor

    def part(self, grid: Grid, rank: int) -> Experts:
        """Return a rank's part: its group's experts, its slice of their hidden columns; parts may differ by one."""
        group, part = divmod(rank, grid.slices)
        mine = torch.tensor_split(torch.arange(len(self.first)), grid.groups)[group]
        hidden = torch.tensor_split(torch.arange(self.first.shape[2]), grid.slices)[part]
        first, second = self.first[mine][:, :, hidden], self.second[mine][:, hidden]
        return Experts(*(w.detach().clone().requires_grad_() for w in (self.router, first, second)))


class Load(NamedTuple):
    """How the rows spread over experts, over all ranks.

    wanted, taken: (E,) rows that chose the expert, and that it took. balance: E times the sum over experts of the share
    of choices times the mean probability (Switch Transformers, equation 4): 1 if even, E if all rows choose one.
    """

    wanted: Tensor
    taken: Tensor
    balance: float


def forward(
    comm: Comm, x: Tensor, experts: Experts, *, grid: Grid, k: int = 2, capacity_factor: float | None = None
) -> tuple[Tensor, Load]:
    """Return y (n, o) for this rank's rows x (n, d), differentiable by x and experts, and the load.

    x: the same on all ranks of a group; the groups' rows follow each other. An expert takes at most capacity_factor k n
    / E of all n rows, rounded up; all if None. The router's gradient is summed over all rows; so is that of first and
    second. Raises InputError for a grid of another size, k that is not in 1..E, a capacity that is not positive, or
    logits that are not finite.
    """
    across, within = grid.split(comm)
    total = experts.router.shape[1]
    if not 1 <= k <= total or (capacity_factor is not None and not capacity_factor > 0):
        raise InputError(
            f"{k} of {total} experts, capacity factor {capacity_factor}",
            where="mixture of experts",
            fix="choose 1 to all experts, and a factor above 0 or None",
        )
    (router,) = shared(across, experts.router)
    logits = x @ router
    if not bool(torch.isfinite(logits).all()):
        raise InputError("the router's logits are not finite", where="mixture of experts", fix="look for NaN in x")
    probabilities = torch.softmax(logits, dim=1)
    gates, chosen = torch.topk(probabilities, k, dim=1)
    gates = gates / gates.sum(dim=1, keepdim=True)

    queue, wanted = _queued(across, chosen, total)
    rows = _all_rows(across, len(x))
    limit = rows * k if capacity_factor is None else math.ceil(capacity_factor * rows * k / total)
    kept = queue < limit
    x_of_all, gates = shared(within, x, gates)
    y = reduced(within, _answers(across, x_of_all, gates, chosen, kept, experts, total))
    mean = sum_of(across, probabilities.detach().sum(dim=0)) / max(rows, 1)
    balance = total * float((wanted / max(rows * k, 1) * mean).sum())
    return y, Load(wanted, wanted.clamp(max=limit), balance)


def _answers(
    across: Comm, x: Tensor, gates: Tensor, chosen: Tensor, kept: Tensor, experts: Experts, total: int
) -> Tensor:
    """Send rows to their experts, and add up what these answer, times the gates."""
    row, choice = torch.nonzero(kept, as_tuple=True)
    expert = chosen[row, choice]
    by_expert = torch.argsort(expert, stable=True)
    row, choice, expert = row[by_expert], choice[by_expert], expert[by_expert]
    homes = torch.tensor_split(torch.arange(total), across.world_size)
    per_expert = torch.bincount(expert, minlength=total)
    counts = [int(per_expert[home].sum()) for home in homes]
    arrived, sizes = exchanged(across, x[row], counts)

    # From each rank came its rows for this rank's experts, in the experts' order.
    mine = homes[across.rank]
    of_ranks = all_to_all(across, [per_expert[home] for home in homes])
    expert_here = torch.cat([torch.repeat_interleave(torch.arange(len(mine)), counted) for counted in of_ranks])
    order = torch.argsort(expert_here, stable=True)
    grouped = arrived[order].split(torch.bincount(expert_here, minlength=len(mine)).tolist())
    answers = [torch.relu(g @ w1) @ w2 for g, w1, w2 in zip(grouped, experts.first, experts.second, strict=True)]
    # A rank without experts must take its part in the exchange of gradients, too.
    none = arrived[:0] @ x.new_zeros(x.shape[1], experts.second.shape[2])
    answered = torch.cat([*answers, none])[torch.argsort(order)]

    returned, _ = exchanged(across, answered, sizes)
    return x.new_zeros(len(x), none.shape[1]).index_add(0, row, returned * gates[row, choice, None])


def _queued(across: Comm, chosen: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Return each choice's place in its expert's queue (n, k), and the queues' lengths (E,): first choices first."""
    picks = one_hot(chosen, total).transpose(0, 1)  # (k, n, E)
    counts = picks.sum(dim=1)
    table = torch.zeros(across.world_size, *counts.shape, dtype=torch.int64)
    table[across.rank] = counts
    table = sum_of(across, table)  # (ranks, k, E)
    before = table.sum(dim=0).cumsum(dim=0) - table.sum(dim=0) + table[: across.rank].sum(dim=0)
    places = picks.cumsum(dim=1) - 1 + before[:, None, :]
    return places.transpose(0, 1).gather(2, chosen[:, :, None]).squeeze(2), table.sum(dim=(0, 1))


def _all_rows(across: Comm, rows: int) -> int:
    return int(sum_of(across, torch.tensor([rows]))[0])
