"""All-reduce through memory that all ranks of a node see: no message carries data.

    window of rank 0  [ input | result ]     1  every rank copies a block of its array into its window
    window of rank 1  [ input | result ]     2  rank r adds up the r-th slice of all windows' inputs
    window of rank 2  [ input | result ]     3  every rank copies the slices of all windows' results

Each rank reads its own array and writes its own result once, 2 n bytes that no algorithm can do without; the rest, in
the windows, is a block at a time and stays in the cache if the W windows fit. Inputs and results have two places each,
so that between two barriers a rank copies block k in, adds up block k - 1 and copies block k - 2 out: with B blocks
B + 1 barriers, and per rank the copies of 2 n bytes and (W - 1)/W n gamma. A ring within one node copies every byte
into and out of buffers in each of its 2 (W - 1) steps. (Graham and Shipman, MPI support for multi-core architectures:
optimized shared memory collectives, 2008.)
"""

from __future__ import annotations

import itertools

import numpy as np

from tasks.core.errors import UserError
from tasks.parallel.comm import Array, Comm

IN_CACHE_BYTES = 128 << 10  # of a slice that is added up at a time


def direct(comm: Comm, flat: Array, combine: np.ufunc) -> None:
    """All-reduce in place. Raises UserError for ranks that do not share memory."""
    if not comm.windows:
        raise UserError(f"ranks over {comm.kind} share no memory", where="direct all-reduce", fix="SharedMemoryComm")
    if comm.world_size == 1:
        return
    capacity = len(comm.windows[0]) // 4 // flat.itemsize
    places = [window[: 4 * capacity * flat.itemsize].view(flat.dtype).reshape(4, capacity) for window in comm.windows]
    inputs, results = [place[:2] for place in places], [place[2:] for place in places]
    blocks = [flat[start : start + capacity] for start in range(0, len(flat), capacity)] or [flat]
    for k in range(len(blocks) + 2):
        if k > 0:
            comm.barrier()
        if k < len(blocks):
            inputs[comm.rank][k % 2, : len(blocks[k])] = blocks[k]
        if 0 <= k - 1 < len(blocks):
            begin, end = _edges(blocks[k - 1], comm.world_size)[comm.rank]
            _reduce([at[(k - 1) % 2] for at in inputs], results[comm.rank][(k - 1) % 2], begin, end, combine)
        if k >= 2:
            for (begin, end), at in zip(_edges(blocks[k - 2], comm.world_size), results, strict=True):
                blocks[k - 2][begin:end] = at[k % 2, begin:end]


def _edges(block: Array, world: int) -> list[tuple[int, int]]:
    return list(itertools.pairwise(len(block) * i // world for i in range(world + 1)))


def _reduce(inputs: list[Array], result: Array, begin: int, end: int, combine: np.ufunc) -> None:
    step = IN_CACHE_BYTES // result.itemsize
    for a in range(begin, end, step):
        b = min(a + step, end)
        combine(inputs[0][a:b], inputs[1][a:b], out=result[a:b])
        for other in inputs[2:]:
            combine(result[a:b], other[a:b], out=result[a:b])
