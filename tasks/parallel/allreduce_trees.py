"""All-reduce through a root: naive, and along a minimum spanning tree.

    naive: 0 <- 1, 2, 3, 4, 5, 6, 7         tree:  0 <- 1   2 <- 3   4 <- 5   6 <- 7
           one after the other                     0 <------ 2       4 <------ 6
                                                   0 <-------------- 4

Naive: the root receives W - 1 arrays and sends as many: 2 (W - 1)(alpha + n beta) + (W - 1) n gamma. It is what a
"parameter server" does, and the peer that makes every other algorithm look good.

Tree: pairs reduce at the same time, then the sum goes back the same way: ceil(log2 W)(2 alpha + 2 n beta + n gamma)
(reduce and broadcast along a binomial tree; Chan, Heimlich, Purkayastha and van de Geijn, Collective communication:
theory, practice, and experience, 2007). Half of the ranks idle after the first step.
"""

from __future__ import annotations

import numpy as np

from tasks.parallel.comm import Array, Comm

ROOT = 0


def naive(comm: Comm, flat: Array, combine: np.ufunc) -> None:
    """All-reduce in place: gather to the root, which sends the result to each."""
    if comm.rank != ROOT:
        comm.send(ROOT, flat)
        comm.recv(ROOT, flat)
        return
    received = np.empty_like(flat)
    others = range(1, comm.world_size)
    for rank in others:
        combine(flat, comm.recv(rank, received), out=flat)
    for rank in others:
        comm.send(rank, flat)


def tree(comm: Comm, flat: Array, combine: np.ufunc) -> None:
    """All-reduce in place: reduce to the root, then broadcast."""
    reduce(comm, flat, combine)
    broadcast(comm, flat)


def reduce(comm: Comm, flat: Array, combine: np.ufunc) -> None:
    """Leave the result on the root; the other ranks' arrays hold parts of it."""
    received = np.empty_like(flat)
    step = 1
    while step < comm.world_size:
        if comm.rank & step:
            comm.send(comm.rank - step, flat)
            return
        if comm.rank + step < comm.world_size:
            combine(flat, comm.recv(comm.rank + step, received), out=flat)
        step *= 2


def broadcast(comm: Comm, flat: Array) -> None:
    """Overwrite every rank's array with the root's."""
    step = 1 << (comm.world_size - 1).bit_length()  # the first that is no less than W
    if comm.rank != ROOT:
        step = comm.rank & -comm.rank  # in `reduce` this rank sent in that step
        comm.recv(comm.rank - step, flat)
    while (step := step // 2) > 0:
        if comm.rank + step < comm.world_size:
            comm.send(comm.rank + step, flat)
