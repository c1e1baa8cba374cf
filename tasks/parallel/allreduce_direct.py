"""All-reduce through memory that all ranks of a node see: no message carries data.

    window of rank 0  [ input | result ]     1  every rank copies a block of its array into its window
    window of rank 1  [ input | result ]     2  barrier; rank r adds up the r-th slice of all windows' inputs
    window of rank 2  [ input | result ]     3  barrier; every rank copies the slices of all windows' results

Each rank reads its own array and writes its own result once, 2 n bytes that no algorithm can do without; the rest, in
the windows, is a block at a time and stays in the cache if the W windows fit. With B blocks it costs 2 B barriers, and
per rank the copies of 3 n bytes and (W - 1)/W n gamma. A ring within one node copies every byte into and out of buffers
in each of its 2 (W - 1) steps. (Graham and Shipman, MPI support for multi-core architectures: optimized shared memory
collectives, 2008.)

The next block's input may be written once everybody has passed the second barrier, its results after the next first
one, so two barriers a block are enough.
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
    capacity = len(comm.windows[0]) // 2 // flat.itemsize
    ends = capacity * flat.itemsize
    inputs = [window[:ends].view(flat.dtype) for window in comm.windows]
    results = [window[ends : 2 * ends].view(flat.dtype) for window in comm.windows]
    if not len(flat):
        comm.barrier()  # that all ranks have nothing is checked, too
    for start in range(0, len(flat), capacity):
        block = flat[start : start + capacity]
        inputs[comm.rank][: len(block)] = block
        comm.barrier()
        slices = list(itertools.pairwise(len(block) * i // comm.world_size for i in range(comm.world_size + 1)))
        _reduce(inputs, results[comm.rank], *slices[comm.rank], combine)
        comm.barrier()
        for (a, b), result in zip(slices, results, strict=True):
            block[a:b] = result[a:b]


def _reduce(inputs: list[Array], result: Array, begin: int, end: int, combine: np.ufunc) -> None:
    step = IN_CACHE_BYTES // result.itemsize
    for a in range(begin, end, step):
        b = min(a + step, end)
        combine(inputs[0][a:b], inputs[1][a:b], out=result[a:b])
        for other in inputs[2:]:
            combine(result[a:b], other[a:b], out=result[a:b])
