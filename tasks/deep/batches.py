"""Batches for the loop of tasks/deep/loop.py: a rank's rows of each optimizer step, none lost and none twice.

A batch is a dict of tensors with the same first length n:

    tokens  (n, T) int64
    mask    (n, T) bool       True where a token is
    target  (n, K) float32    or (n, T) int64 ids for next-token
    weight  as target         float32; 0 where a target is missing, on padding, and on rows that only fill a batch

The loss of a step is sum(weight * loss) / sum(weight) over all ranks and micro-batches: exact for short last batches,
for ranks with fewer rows, and for targets that some rows lack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.core.errors import InputError

Batch = dict[str, Tensor]
# A replica's batches of steps first, first + 1, ..., the same in every call.
Batches = Callable[[int], Iterable[Batch]]


@dataclass(frozen=True)
class ShuffledRows:
    """Rows in memory, shuffled anew every epoch by the seed alone: the same steps for any number of replicas.

    rows: a batch of all rows. step_rows: rows of a step over all replicas. Replica r of R takes rows r, r + R, ... of
    each step, as DistributedSampler does, but a step that does not divide is filled with rows of no weight instead of
    repeated ones. Raises InputError for fewer rows than replicas.
    """

    rows: Batch
    step_rows: int
    seed: int = 0
    replica: int = 0
    replicas: int = 1
    epochs: int | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(tensor) for name, tensor in self.rows.items()}
        if len(set(lengths.values())) != 1:
            raise InputError(f"tensors of different lengths: {lengths}", where="rows of a step", fix="one row in each")
        if min(self.step_rows, len(self)) < self.replicas:
            raise InputError(
                f"{len(self)} rows in steps of {self.step_rows} for {self.replicas} replicas",
                where="rows of a step",
                fix="fewer replicas (parallel.data), larger steps or more rows",
            )

    def __len__(self) -> int:
        return len(self.rows["tokens"])

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self) // self.step_rows)

    def __call__(self, first: int) -> Iterator[Batch]:
        """Yield this replica's batches of steps first, first + 1, ..., until `epochs` are over."""
        step = first
        while self.epochs is None or step < self.epochs * self.steps_per_epoch:
            epoch, index = divmod(step, self.steps_per_epoch)
            if step == first or index == 0:
                order = torch.randperm(
                    len(self), generator=torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                )
            yield self._part(order[index * self.step_rows : (index + 1) * self.step_rows])
            step += 1

    def _part(self, rows: Tensor) -> Batch:
        mine = rows[self.replica :: self.replicas]
        batch = {name: tensor[mine] for name, tensor in self.rows.items()}
        return filled(batch, -(-len(rows) // self.replicas))


def filled(batch: Batch, rows: int) -> Batch:
    """Return the batch with rows of no weight and no token at its end, so that it has at least so many."""
    missing = rows - len(batch["tokens"])
    if missing <= 0:
        return batch
    return {name: torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])]) for name, tensor in batch.items()}


def cut(batch: Batch, parts: int, *, equal: bool = False) -> list[Batch]:
    """Cut a batch into exactly so many micro-batches, the last ones shorter; none is empty: filled with a row of no
    weight. equal: fill all to the same length, as a pipeline needs."""
    size = max(1, -(-len(batch["tokens"]) // parts))
    pieces = [{name: t[i * size : (i + 1) * size] for name, t in batch.items()} for i in range(parts)]
    return [filled(piece, size if equal else 1) for piece in pieces]
