"""What replicas agree on before each step: who still has rows, and what all of them weigh."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.core.errors import InputError
from tasks.deep.batches import Batch, Batches, filled
from tasks.deep.plan import Plan


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
                where="text model",
                fix="fewer replicas (parallel.data) or more rows",
            )
        yield here, weight, tokens
