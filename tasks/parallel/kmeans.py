"""k-means of points that are spread over ranks, and the choice of k by silhouette.

Centres are seeded by k-means++ (Arthur and Vassilvitskii, 2007): each next one is a point drawn with a chance in
proportion to its squared distance from the nearest centre so far. Then Lloyd's iterations (1982): each point to its
nearest centre, each centre to the mean of its points. Both are exact: a rank tells the others the sums over its points,
and of points only those that became centres and, for the silhouette, a sample. So the answer depends on the points and
their order, rank by rank, and on where one rank ends and the next begins by rounding alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from tasks.parallel.allreduce import allreduce
from tasks.parallel.comm import Array, Comm

CHUNK_ROWS = 8192  # whose distances to all centres are held at once
LEAST_GAIN = 1e-6  # share of the inertia: an iteration that gains less is the last


@dataclass(frozen=True)
class Clusters:
    """centres: (k, d) float64. inertia: sum of the squared distances from each point to its centre."""

    centres: Array
    inertia: float

    def labels(self, x: Array) -> Array:
        """(n,) the nearest centre of each point (n, d); of two as near, the first."""
        return nearest(x, self.centres)[0]


def nearest(x: Array, centres: Array) -> tuple[Array, Array]:
    """(n,) the nearest centre of each point (n, d), and (n,) its squared distance."""
    labels, distances = np.zeros(len(x), dtype=np.int64), np.zeros(len(x))
    for start in range(0, len(x), CHUNK_ROWS):
        here = slice(start, start + CHUNK_ROWS)
        squared = cdist(x[here], centres, "sqeuclidean")
        labels[here] = squared.argmin(axis=1)
        distances[here] = squared.min(axis=1)
    return labels, distances


def kmeans(comm: Comm, x: Array, k: int, *, seed: int, starts: int = 3, iterations: int = 100) -> Clusters:
    """The best of several starts, by inertia; the same on every rank.

    x: this rank's points (n, d), finite; n may be 0. Fewer than k centres come back where fewer points differ, and none
    where there are no points.
    """
    return best(kmeans_runs(comm, x, [k] * starts, seed=seed, iterations=iterations))


def best(runs: Sequence[Clusters]) -> Clusters:
    return min(runs, key=lambda clusters: clusters.inertia)


def kmeans_runs(comm: Comm, x: Array, ks: Sequence[int], *, seed: int, iterations: int) -> list[Clusters]:
    """One run for each k. They go in step, so that all of them together send no more messages than the longest."""
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


Sums = tuple[Array, Array, float]  # of each centre (k, 1) points and (k, d) their sum; and the inertia


def _sums(x: Array, centres: Array) -> Sums:
    k = len(centres)
    labels, distances = nearest(x, centres)
    sums = np.array([np.bincount(labels, column, minlength=k) for column in x.T]).reshape(x.shape[1], k)
    return np.bincount(labels, minlength=k)[:, None].astype(float), sums.T, float(distances.sum())


def _summed(comm: Comm, parts: Sequence[Sums]) -> list[Sums]:
    """The sums over all ranks, in one message."""
    shapes = [sums.shape for _, sums, _ in parts]
    total = allreduce(comm, np.concatenate([np.append(np.hstack([n, sums]), inertia) for n, sums, inertia in parts]))
    found = []
    for k, d in shapes:
        size = k * (d + 1)
        table, total, inertia = total[:size].reshape(k, d + 1), total[size + 1 :], float(total[size])
        found.append((table[:, :1], table[:, 1:], inertia))
    return found


def _seeded(comm: Comm, x: Array, ks: Sequence[int], rng: np.random.Generator) -> list[Array]:
    """For each k, up to k of all ranks' points (k, d), by k-means++."""
    weights = np.ones((len(ks), len(x)))  # the first is drawn evenly
    centres: list[Array] = [np.zeros((0, x.shape[1])) for _ in ks]
    for step in range(max(ks)):
        points, found = _drawn(comm, x, weights, rng.random(len(ks)))
        for run in np.flatnonzero(found & (np.array(ks) > step)):
            away = cdist(x, points[run : run + 1], "sqeuclidean")[:, 0]
            weights[run] = np.minimum(weights[run], away) if step else away
            centres[run] = np.vstack([centres[run], points[run]])
    return centres


def _drawn(comm: Comm, x: Array, weights: Array, chances: Array) -> tuple[Array, Array]:
    """For each run the point (d,) at which its weights (n,), summed up over the ranks in order, pass its chance of all.

    Returns (runs, d) points, and (runs,) whether there is one: not if all weights are 0.
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
            # Rounding can put it behind the last point, or on one of weight 0: then the last that has any.
            points[run] = x[at if at < len(x) and weights[run, at] > 0 else np.flatnonzero(weights[run])[-1]]
    return allreduce(comm, points), ends[-1] > 0


def choose_clusters(
    comm: Comm, x: Array, ks: range, *, sample: int, seed: int, starts: int = 3, iterations: int = 100
) -> tuple[Clusters, dict[int, float]]:
    """The clusters of the k with the highest silhouette on a sample of all points, and each k's silhouette.

    Of ks, those of 2 and more that differing points are enough for are tried. Where there are none such, all points
    are in one cluster, or in no cluster if there are no points.
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
    """At most so many of all ranks' points, in their order, on every rank."""
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
    """Mean over points of (b - a) / max(a, b), in -1..1 (Rousseeuw, 1987); 0 for the only point of a cluster.

    a: a point's mean distance to the others of its cluster. b: the least mean distance to another cluster's points.
    x: (n, d); labels: (n,) of two clusters at least, else ValueError. Takes n^2 numbers of memory.
    """
    names, labels = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise ValueError("the silhouette is of two clusters or more")
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
