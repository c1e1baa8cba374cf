"""k-means of points that are spread over ranks, and the choice of k by silhouette.

k-means++ seeds the centres (Arthur and Vassilvitskii, 2007): each next centre is a point drawn with probability
proportional to its squared distance from the nearest centre so far. Lloyd's iterations (1982) follow: each point joins
its nearest centre, each centre moves to the mean of its points. Both are exact. A rank sends the others only sums over
its points, the points that became centres and, for the silhouette, a sample of points. So the result depends on the
points and their order, rank by rank; how the points are divided among the ranks changes only the rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from tasks.parallel.allreduce import allreduce
from tasks.parallel.comm import Array, Comm

CHUNK_ROWS = 8192  # points whose distances to all centres are held at once
LEAST_GAIN = 1e-6  # an iteration that lowers the inertia by a smaller share is the last


@dataclass(frozen=True)
class Clusters:
    """centres: (k, d) float64. inertia: sum of squared distances from each point to its centre."""

    centres: Array
    inertia: float

    def labels(self, x: Array) -> Array:
        """Return (n,) the index of each point's nearest centre, the first of equally near ones. x: (n, d)."""
        return nearest(x, self.centres)[0]


def nearest(x: Array, centres: Array) -> tuple[Array, Array]:
    """Return (n,) the index of each point's nearest centre, and (n,) its squared distance. x: (n, d)."""
    labels, distances = np.zeros(len(x), dtype=np.int64), np.zeros(len(x))
    for start in range(0, len(x), CHUNK_ROWS):
        here = slice(start, start + CHUNK_ROWS)
        squared = cdist(x[here], centres, "sqeuclidean")
        labels[here] = squared.argmin(axis=1)
        distances[here] = squared.min(axis=1)
    return labels, distances


def kmeans(comm: Comm, x: Array, k: int, *, seed: int, starts: int = 3, iterations: int = 100) -> Clusters:
    """Run k-means from several starts and return the run with the least inertia, the same on every rank.

    x: this rank's points (n, d), finite; n may be 0. The result has fewer than k centres if fewer points are distinct,
    and none if there are no points.
    """
    return best(kmeans_runs(comm, x, [k] * starts, seed=seed, iterations=iterations))


def best(runs: Sequence[Clusters]) -> Clusters:
    return min(runs, key=lambda clusters: clusters.inertia)


def kmeans_runs(comm: Comm, x: Array, ks: Sequence[int], *, seed: int, iterations: int) -> list[Clusters]:
    """Run k-means once for each k. The runs iterate together, so all send no more messages than the longest alone."""
    centres = _seeded(comm, x, ks, np.random.default_rng(seed))  # each rank draws the same numbers
    inertias = [np.inf] * len(ks)
    moving = list(range(len(ks)))
    for _ in range(iterations):
        totals = iter(_summed(comm, [_sums(x, centres[run]) for run in moving]))
        still = []
        for run in moving:
            counts, sums, inertia = next(totals)
            if inertia < (1 - LEAST_GAIN) * inertias[run]:
                still.append(run)
                # A centre that lost all its points stays where it is.
                centres[run] = np.where(counts > 0, sums / np.maximum(counts, 1), centres[run])
            inertias[run] = inertia
        moving = still
        if not moving:
            break
    last = _summed(comm, [_sums(x, c) for c in centres])
    return [Clusters(c, inertia) for c, (_, _, inertia) in zip(centres, last, strict=True)]


Sums = tuple[Array, Array, float]  # the number of points per centre (k, 1), their sums (k, d), and the inertia


def _sums(x: Array, centres: Array) -> Sums:
    k = len(centres)
    labels, distances = nearest(x, centres)
    sums = np.array([np.bincount(labels, column, minlength=k) for column in x.T]).reshape(x.shape[1], k)
    return np.bincount(labels, minlength=k)[:, None].astype(float), sums.T, float(distances.sum())


def _summed(comm: Comm, parts: Sequence[Sums]) -> list[Sums]:
    """Add up the sums over all ranks, in one message."""
    shapes = [sums.shape for _, sums, _ in parts]
    total = allreduce(comm, np.concatenate([np.append(np.hstack([n, sums]), inertia) for n, sums, inertia in parts]))
    results = []
    for k, d in shapes:
        size = k * (d + 1)
        table, total, inertia = total[:size].reshape(k, d + 1), total[size + 1 :], float(total[size])
        results.append((table[:, :1], table[:, 1:], inertia))
    return results


def _seeded(comm: Comm, x: Array, ks: Sequence[int], rng: np.random.Generator) -> list[Array]:
    """Choose up to k of all ranks' points (k, d) for each k, by k-means++."""
    weights = np.ones((len(ks), len(x)))  # the first centre is drawn uniformly
    centres: list[Array] = [np.zeros((0, x.shape[1])) for _ in ks]
    for step in range(max(ks)):
        points, exist = _drawn(comm, x, weights, rng.random(len(ks)))
        for run in np.flatnonzero(exist & (np.array(ks) > step)):
            away = cdist(x, points[run : run + 1], "sqeuclidean")[:, 0]
            weights[run] = np.minimum(weights[run], away) if step else away
            centres[run] = np.vstack([centres[run], points[run]])
    return centres


def _drawn(comm: Comm, x: Array, weights: Array, chances: Array) -> tuple[Array, Array]:
    """Draw a point for each run: where its weights, summed over the ranks in order, pass its share of their total.

    weights: (runs, n); chances: the shares (runs,). Returns (runs, d) points, and (runs,) whether any weight is not 0.
    """
    totals = np.zeros((comm.world_size, len(chances)))
    totals[comm.rank] = weights.sum(axis=1)
    ends = np.cumsum(allreduce(comm, totals), axis=0)
    points = np.zeros((len(chances), x.shape[1]))
    for run, end in enumerate(ends.T):
        if end[-1] <= 0:
            continue
        target = min(chances[run] * end[-1], np.nextafter(end[-1], 0))
        rank = int(np.searchsorted(end, target, side="right"))
        if comm.rank == rank:
            before = end[rank - 1] if rank else 0.0
            at = int(np.searchsorted(np.cumsum(weights[run]), target - before, side="right"))
            # Rounding can pick an index past the end, or a point of weight 0: then take the last point with a weight.
            points[run] = x[at if at < len(x) and weights[run, at] > 0 else np.flatnonzero(weights[run])[-1]]
    return allreduce(comm, points), ends[-1] > 0


def choose_clusters(
    comm: Comm, x: Array, ks: range, *, sample: int, seed: int, starts: int = 3, iterations: int = 100
) -> tuple[Clusters, dict[int, float]]:
    """Return the clusters of the k with the highest silhouette on a sample of all points, and each k's silhouette.

    A k is skipped if it is below 2, above the number of distinct points, or has no silhouette on the sample. If no k
    is left, all points are in one cluster, or in no cluster if there are no points.
    """
    runs = kmeans_runs(comm, x, [1, *(k for k in ks for _ in range(starts))], seed=seed, iterations=iterations)
    points = _sampled(comm, x, sample, seed)
    chosen, scores = runs[0], dict[int, float]()
    for i, k in enumerate(ks):
        clusters = best(runs[1 + i * starts : 1 + (i + 1) * starts])
        labels = clusters.labels(points)
        if not 2 <= len(np.unique(labels)) < len(points) or len(clusters.centres) < k:
            continue
        scores[k] = silhouette(points, labels)
        if scores[k] == max(scores.values()):
            chosen = clusters
    return chosen, scores


def _sampled(comm: Comm, x: Array, sample: int, seed: int) -> Array:
    """Return at most `sample` of all ranks' points, in their order, the same on every rank."""
    lengths = np.zeros(comm.world_size, dtype=np.int64)
    lengths[comm.rank] = len(x)
    ends = np.cumsum(allreduce(comm, lengths))
    n, first = int(ends[-1]), int(ends[comm.rank]) - len(x)
    chosen = np.sort(np.random.default_rng(seed).choice(n, min(sample, n), replace=False))
    points = np.zeros((len(chosen), x.shape[1]))
    mine = (chosen >= first) & (chosen < first + len(x))
    points[mine] = x[chosen[mine] - first]
    return allreduce(comm, points)


def silhouette(x: Array, labels: Array) -> float:
    """Return the mean over points of (b - a) / max(a, b), in -1..1 (Rousseeuw, 1987).

    a: a point's mean distance to the others of its cluster. b: its least mean distance to another cluster's points.
    The only point of a cluster counts as 0. x: (n, d); labels: (n,), at least two, else ValueError. Holds n^2 numbers.
    """
    names, labels = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise ValueError("the silhouette needs at least two clusters")
    member = np.eye(len(names))[labels]
    sizes = member.sum(axis=0)
    sums = cdist(x, x) @ member  # (n, clusters)
    rows = np.arange(len(x))
    own = sizes[labels]
    a = sums[rows, labels] / np.maximum(own - 1, 1)
    means = sums / sizes
    means[rows, labels] = np.inf
    b = means.min(axis=1)
    larger = np.maximum(a, b)
    score = np.divide(b - a, larger, out=np.zeros(len(x)), where=(own > 1) & (larger > 0))
    return float(score.mean())
