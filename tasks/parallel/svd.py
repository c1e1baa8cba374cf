"""Truncated singular value decomposition of a tall sparse matrix whose rows are spread over ranks.

X ~ U S V^T; only V (d, k) and S are computed. X V holds the k numbers per row that keep most of the row. Subspace
iteration from a random Omega approximates the range of X^T,

    Q = qr(X^T X Omega);  Q = qr(X^T X Q), q times;  (X Q)^T (X Q) = W S^2 W^T;  V = Q W

(Halko, Martinsson and Tropp, Finding structure with randomness, 2011, algorithms 4.4 and 5.1, for X^T). A product with
X^T X takes one pass over each rank's rows and one all-reduce of d x (k + p) numbers, so neither X nor any matrix as
long as X leaves its rank. All ranks repeat the QR and the small eigenproblem.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.parallel.allreduce import allreduce
from tasks.parallel.comm import Array, Comm


def truncated_svd(
    comm: Comm, x: Any, *, k: int, oversampling: int = 10, iterations: int = 4, seed: int = 0
) -> tuple[Array, Array]:
    """Return the right singular vectors and the k largest singular values of all ranks' rows.

    x: this rank's rows, sparse or dense (n, d), of float; n may be 0, d is the same on all ranks. oversampling: p,
    random directions beyond k. iterations: q; the slower the singular values fall, the more are needed.

    Returns V (d, k) with orthonormal columns, each column's component of largest magnitude positive, and S (k,),
    descending: the same bits on every rank. If the rank of X is below k, the last of S are 0 up to rounding and their
    vectors arbitrary. Raises ValueError unless 1 <= k <= d.
    """
    d = x.shape[1]
    if not 1 <= k <= d:
        raise ValueError(f"cannot compute {k} singular vectors of a matrix with {d} columns")
    start = np.random.default_rng(seed).standard_normal((d, min(k + oversampling, d)), dtype=np.float64)
    q: Array = start.astype(x.dtype)
    for _ in range(iterations + 1):
        # Orthonormalized after each product, or all columns would converge to the first vector.
        q = np.linalg.qr(allreduce(comm, x.T @ (x @ q)))[0]
    # float64 here: the squares of singular values need twice the digits.
    projected = np.asarray(x @ q, dtype=np.float64)
    squares, w = np.linalg.eigh(allreduce(comm, projected.T @ projected))
    largest = np.argsort(squares)[::-1][:k]
    v: Array = q @ w[:, largest].astype(x.dtype)
    signs = np.sign(v[np.abs(v).argmax(axis=0), np.arange(k)])
    return v * np.where(signs < 0, -1, 1).astype(v.dtype), np.sqrt(np.maximum(squares[largest], 0))
