"""Ring all-reduce: reduce-scatter, then all-gather, each W - 1 steps around the ring.

    rank 0   a0 b0 c0        b0 -> rank 1 …        after W - 1 steps rank r has the sum of one chunk,
    rank 1   a1 b1 c1                              after W - 1 more every rank has all of them
    rank 2   a2 b2 c2

In each step a rank sends one of W chunks to the right and receives another from the left, so all links are busy all the
time: 2 (W - 1) alpha + 2 (W - 1)/W n beta + (W - 1)/W n gamma. The traffic is the least possible at any W (Patarasuk
and Yuan, 2009); the steps are not, so small arrays and large W pay for latency. A chunk is summed in ring order, on one
rank, so all ranks have the same bits.
"""

from __future__ import annotations

import itertools

import numpy as np

from tasks.parallel.comm import Array, Comm


def ring(comm: Comm, flat: Array, combine: np.ufunc) -> None:
    """All-reduce in place. Chunks may be empty: there can be fewer elements than ranks."""
    world = comm.world_size
    chunks = chunked(flat, world)
    right, left = (comm.rank + 1) % world, (comm.rank - 1) % world
    received = np.empty(max(len(chunk) for chunk in chunks), flat.dtype)
    for step in range(world - 1):
        mine, theirs = chunks[(comm.rank - step) % world], chunks[(comm.rank - step - 1) % world]
        combine(theirs, comm.send_recv(right, mine, left, received[: len(theirs)]), out=theirs)
    for step in range(world - 1):
        comm.send_recv(right, chunks[(comm.rank + 1 - step) % world], left, chunks[(comm.rank - step) % world])


def chunked(flat: Array, count: int) -> list[Array]:
    """Cut into `count` views whose lengths differ by one at most."""
    edges = [len(flat) * i // count for i in range(count + 1)]
    return [flat[a:b] for a, b in itertools.pairwise(edges)]
