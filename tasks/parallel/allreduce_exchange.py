"""All-reduce by exchange in pairs: recursive doubling, and Rabenseifner's halving and doubling.

    step 1   0<>1   2<>3   4<>5   6<>7        the distance doubles: after step k,
    step 2   0<>2   1<>3   4<>6   5<>7        2^k ranks have the sum of their 2^k arrays
    step 3   0<>4   1<>5   2<>6   3<>7

Recursive doubling exchanges whole arrays, both ways at once: log2 W (alpha + n beta + n gamma), the fewest steps there
are. For small arrays nothing is faster.

Rabenseifner's first half exchanges halves, quarters, eighths … until each rank has the sum of one W-th; its second half
goes back: 2 log2 W alpha + 2 (W - 1)/W n beta + (W - 1)/W n gamma. That is the ring's traffic in far fewer steps.

A world that is no power of two is folded: of the first 2 (W - P) ranks, P the power of two below W, each even one gives
its array to its neighbour, sits out, and gets the result in the end: one step more at each end, of n bytes. (Thakur,
Rabenseifner and Gropp, Optimization of collective communication operations in MPICH, 2005.)

The lower rank's array is always the first operand, so both ranks of a pair compute the same bits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tasks.parallel.comm import Array, Comm

Core = Callable[[Comm, Array, np.ufunc, "Fold"], None]


class Fold:
    """The ranks that take part after the fold, numbered anew from 0 to a power of two."""

    def __init__(self, comm: Comm) -> None:
        self.size = 1 << (comm.world_size.bit_length() - 1)
        self.folded = comm.world_size - self.size  # pairs of neighbours
        self.sits_out = comm.rank < 2 * self.folded and comm.rank % 2 == 0
        self.index = comm.rank // 2 if comm.rank < 2 * self.folded else comm.rank - self.folded

    def rank(self, index: int) -> int:
        return 2 * index + 1 if index < self.folded else index + self.folded


def exchange(comm: Comm, flat: Array, combine: np.ufunc) -> None:
    """All-reduce in place by recursive doubling."""
    _folded(comm, flat, combine, _double)


def rabenseifner(comm: Comm, flat: Array, combine: np.ufunc) -> None:
    """All-reduce in place by recursive halving, then doubling."""
    _folded(comm, flat, combine, _halve_and_double)


def _folded(comm: Comm, flat: Array, combine: np.ufunc, core: Core) -> None:
    fold = Fold(comm)
    if fold.sits_out:
        comm.send(comm.rank + 1, flat)
        comm.recv(comm.rank + 1, flat)
        return
    has_pair = comm.rank < 2 * fold.folded
    if has_pair:
        combine(comm.recv(comm.rank - 1, np.empty_like(flat)), flat, out=flat)
    core(comm, flat, combine, fold)
    if has_pair:
        comm.send(comm.rank - 1, flat)


def _double(comm: Comm, flat: Array, combine: np.ufunc, fold: Fold) -> None:
    received = np.empty_like(flat)
    step = 1
    while step < fold.size:
        partner = fold.index ^ step
        comm.send_recv(fold.rank(partner), flat, fold.rank(partner), received)
        _combine_in_order(combine, flat, received, partner < fold.index)
        step *= 2


def _halve_and_double(comm: Comm, flat: Array, combine: np.ufunc, fold: Fold) -> None:
    edges = [len(flat) * i // fold.size for i in range(fold.size + 1)]
    received = np.empty(len(flat) - len(flat) // 2, flat.dtype)
    first, last = 0, fold.size  # the chunks whose sums are this rank's business
    halves: list[tuple[int, slice, slice]] = []
    while last - first > 1:
        half = (last - first) // 2
        middle, partner = first + half, fold.index ^ half
        lower, upper = slice(edges[first], edges[middle]), slice(edges[middle], edges[last])
        keep, give = (lower, upper) if fold.index < middle else (upper, lower)
        kept = flat[keep]
        other = fold.rank(partner)
        theirs = comm.send_recv(other, flat[give], other, received[: len(kept)])
        _combine_in_order(combine, kept, theirs, partner < fold.index)
        halves.append((other, keep, give))
        first, last = (first, middle) if fold.index < middle else (middle, last)
    for other, keep, give in reversed(halves):
        comm.send_recv(other, flat[keep], other, flat[give])


def _combine_in_order(combine: np.ufunc, own: Array, theirs: Array, theirs_first: bool) -> None:
    combine(*((theirs, own) if theirs_first else (own, theirs)), out=own)
