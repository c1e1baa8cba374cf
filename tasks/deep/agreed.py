"""What ranks agree on: what they have read, and before each step, who still has rows and what all of them weigh."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import distributed

from tasks.core.errors import InputError, RanksDisagree
from tasks.deep.batches import Batch, Batches, filled
from tasks.deep.plan import Plan


def same_on_all_ranks(digest: str, what: str, plan: Plan) -> None:
    """Raise RanksDisagree unless all ranks have this hexadecimal digest. Ranks on other rows would each train on a part
    of them, some twice and some never, and nothing would show it."""
    if plan.mesh is None:
        return
    number = int(digest[:12], 16)
    ends = torch.tensor([number, -number], device=plan.device)
    distributed.all_reduce(ends, op=distributed.ReduceOp.MAX)
    if int(ends[0]) != -int(ends[1]):
        raise RanksDisagree(
            f"ranks differ in {what}",
            where=f"rank {plan.rank} of {plan.world_size}",
            fix="the same files on every machine, which nothing writes to meanwhile",
        )


def agreed(batches: Batches, first: int, plan: Plan) -> Iterator[tuple[Batch, float, float]]:
    """Yield batches, each with the weight and tokens of all replicas, until no replica has one: till then those that
    are through take part with a row of no weight. Raises InputError where a replica never has a row."""
    mine = iter(batches(first))
    empty: Batch | None = None
    while True:
        batch = next(mine, None)
        if batch is not None:
            empty = empty or filled({name: tensor[:0] for name, tensor in batch.items()}, 1)
        elif empty is None and first and (earlier := next(iter(batches(0)), None)):
            empty = filled({name: tensor[:0] for name, tensor in earlier.items()}, 1)
        here = batch or empty
        weight, tokens = (float(here["weight"].sum()), float(here["mask"].sum())) if here else (0.0, 0.0)
        have, without, weight, tokens = plan.totals(batch is not None, here is None, weight, tokens)
        if not have:
            return
        if without or here is None:
            raise InputError(
                f"{without:g} of {plan.replicas} replicas have no rows",
                where="rows of a step",
                fix="fewer replicas (parallel.data) or more rows",
            )
        yield here, weight, tokens
