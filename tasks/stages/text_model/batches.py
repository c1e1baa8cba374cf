"""What a rank learns from at a border in time: its reviews before it, in batches, and which reviews are held out.

A review is held out for validation, or not learned from at all (max_reviews), by a hash of its number: the same ones at
every border, on any number of ranks. An epoch's order comes from the seed, the border and the epoch alone, so a resumed
training sees what the killed one would have seen.

Reviews of a batch are of about the same length: within a window of WINDOW steps they are sorted by it, as padding costs
as much as tokens. The windows' batches then come in a random order, the same on all ranks, which would wait for each
other otherwise. Every rank has the same number of batches; a rank with fewer reviews has smaller ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from tasks.algorithms.splitmix import GOLDEN, mix
from tasks.deep.batches import Batch, filled
from tasks.stages.text_model.rows import Array, Rows

WINDOW = 50
VALIDATION_ROWS = 256  # in a batch, at most


def drawn(row: Array, seed: int) -> Array:
    """Return (n,) numbers of [0, 1) for rows by their number."""
    keys = row.astype(np.uint64) * np.uint64(GOLDEN) + np.uint64(seed)
    return mix(keys).astype(np.float64) / 2.0**64


@dataclass(frozen=True)
class Learning:
    """Batches of the rows at `places`, `steps` of them in an epoch, on this rank. seeds: of the stage and the border.

    Called with the number of the first step it yields that step's batch and all later ones, without end. left_out:
    share of tokens that are replaced by the filler.
    """

    rows: Rows
    places: Array
    steps: int
    seeds: tuple[int, ...]
    rank: int
    filler: int
    left_out: float

    def __call__(self, first: int) -> Iterator[Batch]:
        epoch, step = divmod(first, self.steps)
        while True:
            for places in self.epoch(epoch)[step:]:
                yield self._hidden(batch_of(self.rows, places, self.filler), epoch, step)
                step += 1
            epoch, step = epoch + 1, 0

    def epoch(self, number: int) -> list[Array]:
        """Return the places of each step's rows in an epoch: every one of `places` once."""
        order = np.random.default_rng([*self.seeds, number, 1 + self.rank]).permutation(self.places)
        shared = np.random.default_rng([*self.seeds, number, 0])
        batches: list[Array] = []
        windows = -(-self.steps // WINDOW)
        for steps, window in zip(
            np.array_split(np.arange(self.steps), windows), np.array_split(order, windows), strict=True
        ):
            by_length = window[np.argsort(self.rows.lengths[window], kind="stable")]
            cut = np.array_split(by_length, len(steps))
            batches += [cut[i] for i in shared.permutation(len(steps))]
        return batches

    def _hidden(self, batch: Batch, epoch: int, step: int) -> Batch:
        if self.left_out:
            rng = np.random.default_rng([*self.seeds, epoch, 1 + self.rank, step])
            hide = rng.random(tuple(batch["tokens"].shape)) < self.left_out
            batch["tokens"][torch.from_numpy(hide)] = self.filler
        return batch


@dataclass(frozen=True)
class Validation:
    """The same batches at each call, `steps` on every rank."""

    rows: Rows
    places: Array
    steps: int
    filler: int

    def __call__(self) -> Iterator[Batch]:
        by_length = self.places[np.argsort(self.rows.lengths[self.places], kind="stable")]
        for places in np.array_split(by_length, self.steps):
            yield batch_of(self.rows, places, self.filler)


def batch_of(rows: Rows, places: Array, filler: int) -> Batch:
    """Return a batch of `tasks.deep.batches` of these rows; of none, one row without weight."""
    tokens, mask = rows.padded(places, filler)
    answers = rows.answers[places]
    known = ~np.isnan(answers)
    batch = {
        "tokens": torch.from_numpy(tokens),
        "mask": torch.from_numpy(mask),
        "target": torch.from_numpy(np.where(known, answers, np.float32(0))),
        "weight": torch.from_numpy(known.astype(np.float32)),
    }
    return filled(batch, 1)
