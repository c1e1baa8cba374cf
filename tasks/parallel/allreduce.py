"""All-reduce: every rank ends with the sum (mean, maximum) of all ranks' arrays.

W ranks with n bytes each. A message costs alpha + its bytes times beta, adding costs gamma a byte:

    naive            2 (W - 1) (alpha + n beta)                                      the root does everything
    tree             2 ceil(log2 W) (alpha + n beta)                                 few steps, whole arrays
    exchange         log2 W (alpha + n beta)                                         fewest steps: small arrays
    ring             2 (W - 1) alpha + 2 (W - 1)/W n beta                            least traffic, many steps
    rabenseifner     2 log2 W alpha + 2 (W - 1)/W n beta                             least traffic, few steps
    hierarchical     tree within each node, ring between them                        one rank a node on the network
    direct           2 n copied, a barrier a block                                   shared memory: no messages at all
    gloo             what torch's users get                                          for comparison

No all-reduce by messages moves less than 2 (W - 1)/W n per rank (Patarasuk and Yuan, 2009). `allreduce_cost.py` has the
formulas as code, `docs/lab/allreduce.md` the pictures. Each algorithm works in place on a flat array, so that a
measurement times nothing else; `allreduce` takes any shape and leaves its input alone.

Sums of floats depend on the order of adding, thus on the algorithm and W, but every rank gets the same bits, in every
run. (Of `gloo` nothing of the kind is promised.) NaN on any rank is NaN on all, in sums and maxima.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from tasks.core.errors import UserError
from tasks.parallel.allreduce_direct import direct
from tasks.parallel.allreduce_exchange import exchange, rabenseifner
from tasks.parallel.allreduce_levels import hierarchical
from tasks.parallel.allreduce_ring import ring
from tasks.parallel.allreduce_table import fastest
from tasks.parallel.allreduce_trees import naive, tree
from tasks.parallel.comm import Array, Comm

Operation = Literal["sum", "mean", "max"]
InPlace = Callable[[Comm, Array, np.ufunc], None]
NUMBERS = "biufc"  # numpy's kinds of dtypes that can be reduced


def gloo(comm: Comm, flat: Array, combine: np.ufunc) -> None:
    """Run gloo's built-in all-reduce. Raises UserError where the group has none."""
    builtin = getattr(comm, "builtin", None)
    if builtin is None:
        raise UserError(f"a group over {comm.kind} has no built-in all-reduce", fix="GlooComm")
    builtin(flat, combine)


ALGORITHMS: dict[str, InPlace] = {
    "naive": naive,
    "tree": tree,
    "exchange": exchange,
    "ring": ring,
    "rabenseifner": rabenseifner,
    "hierarchical": hierarchical,
    "direct": direct,
    "gloo": gloo,
}


def allreduce(comm: Comm, array: Array, operation: Operation = "sum", algorithm: str = "ring") -> Array:
    """Return the sum, mean or maximum of all ranks' arrays, a new array of their shape.

    array: any shape and length, of numbers; the same shape and dtype on all ranks. algorithm: one of ALGORITHMS, or
    "auto", the one that was fastest where it was measured. The ring is the default since its sums are what the
    pipeline's snapshots hold. The mean of whole numbers is float64; booleans are counted as int64, their maximum stays
    boolean. Raises UserError for other dtypes and unknown names, RanksDisagree, RankLost.
    """
    return _reduced(comm, _copied(array, operation), operation, algorithm, f"{array.dtype} {array.shape}")


def allreduce_many(
    comm: Comm,
    arrays: Sequence[Array],
    operation: Operation = "sum",
    algorithm: str = "ring",
    bucket_bytes: int = 4 << 20,
) -> list[Array]:
    """All-reduce many small arrays in few buckets: k arrays cost the latency of one.

    Neighbours of one dtype share a bucket until it has `bucket_bytes`, as the gradients of one backward pass do (Li et
    al., PyTorch Distributed, 2020, section 3.2).
    """
    results: list[Array] = []
    for bucket in _buckets(arrays, bucket_bytes):
        together = np.concatenate([_copied(array, operation).reshape(-1) for array in bucket])
        shapes = zlib.crc32(repr([array.shape for array in bucket]).encode())
        what = f"{len(bucket)} arrays of {bucket[0].dtype} ({shapes:08x})"
        totals = np.split(
            _reduced(comm, together, operation, algorithm, what), np.cumsum([a.size for a in bucket])[:-1]
        )
        results += [total.reshape(array.shape) for total, array in zip(totals, bucket, strict=True)]
    return results


def _reduced(comm: Comm, total: Array, operation: Operation, algorithm: str, what: str) -> Array:
    """All-reduce `total` in place and return it."""
    flat = total.reshape(-1)
    if algorithm == "auto":
        algorithm = fastest(comm.kind, comm.world_size, flat.nbytes)
    if algorithm not in ALGORITHMS:
        raise UserError(f"no algorithm {algorithm!r}", where="all-reduce", fix=f"known: auto, {', '.join(ALGORITHMS)}")
    before, comm.phase = comm.phase, f"{operation} of {what} by {algorithm}"
    if algorithm == "gloo":
        comm.barrier()  # checks what the built-in does not
    ALGORITHMS[algorithm](comm, flat, np.maximum if operation == "max" else np.add)
    comm.phase = before
    if operation == "mean":
        total /= comm.world_size
    return total


def _buckets(arrays: Sequence[Array], bucket_bytes: int) -> list[list[Array]]:
    buckets: list[list[Array]] = []
    held = 0
    for array in arrays:
        if not buckets or buckets[-1][0].dtype != array.dtype or held + array.nbytes > bucket_bytes:
            buckets.append([])
            held = 0
        buckets[-1].append(array)
        held += array.nbytes
    return buckets


def _copied(array: Array, operation: Operation) -> Array:
    """Return a contiguous copy in the dtype of the result."""
    if array.dtype.kind not in NUMBERS:
        raise UserError(f"cannot reduce {array.dtype}", where="all-reduce", fix="an array of numbers")
    if operation not in ("sum", "mean", "max"):
        raise UserError(f"no operation {operation!r}", where="all-reduce", fix="sum, mean or max")
    dtype = array.dtype
    if operation == "mean" and dtype.kind in "biu":
        dtype = np.dtype(np.float64)
    elif operation == "sum" and dtype.kind == "b":
        dtype = np.dtype(np.int64)
    return np.array(array, dtype=dtype, order="C")
