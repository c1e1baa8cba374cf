"""Truncated singular value decomposition of a tall sparse matrix whose rows are spread over ranks.

X ~ U S V^T, of which V (d, k) and S are wanted: X V are the k numbers that keep most of each row. The range of X^T is
found from a random start by subspace iteration,

    Q = qr(X^T X Omega);  Q = qr(X^T X Q), q times;  (X Q)^T (X Q) = W S^2 W^T;  V = Q W

(Halko, Martinsson and Tropp, Finding structure with randomness, 2011, algorithms 4.4 and 5.1, for X^T). A product with
X^T X is one pass over each rank's rows and one all-reduce of d x (k + p) numbers, so neither X nor anything as long as
X leaves its rank; QR and the small eigenproblem are repeated on all ranks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.parallel.allreduce import allreduce
from tasks.parallel.comm import Array, Comm


def truncated_svd(
    comm: Comm, x: Any, *, k: int, oversampling: int = 10, iterations: int = 4, seed: int = 0
) -> tuple[Array, Array]:
    """The k largest singular values of all ranks' rows, and their right vectors.

    x: this rank's rows, sparse or dense (n, d), of float; n may be 0, d is the same on all ranks. oversampling: p,
    random directions beyond k. iterations: q; the slower the singular values fall, the more are needed.

    Returns V (d, k) with orthonormal columns, each one's largest component positive, and S (k,) falling: the same bits
    on every rank. Where the rank of X is below k, the last of S are 0 up to rounding and their vectors arbitrary.
    Raises ValueError unless 1 <= k <= d.
    """
    d = x.shape[1]
    if not 1 <= k <= d:
        raise ValueError(f"{k} singular vectors of a matrix with {d} columns")
    start = np.random.default_rng(seed).standard_normal((d, min(k + oversampling, d)), dtype=np.float64)
    q: Array = start.astype(x.dtype)
    for _ in range(iterations + 1):
        # Orthonormal again after each product, or all columns would turn into the first vector.
        q = np.linalg.qr(allreduce(comm, x.T @ (x @ q)))[0]
    # float64 here: the squares of singular values need twice their digits.
    projected = np.asarray(x @ q, dtype=np.float64)
    squares, w = np.linalg.eigh(allreduce(comm, projected.T @ projected))
    largest = np.argsort(squares)[::-1][:k]
    v: Array = q @ w[:, largest].astype(x.dtype)
    signs = np.sign(v[np.abs(v).argmax(axis=0), np.arange(k)])
    return v * np.where(signs < 0, -1, 1).astype(v.dtype), np.sqrt(np.maximum(squares[largest], 0))
