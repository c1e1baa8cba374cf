"""k-means over ranks against scikit-learn, on blobs and in corners."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score, silhouette_score

from tasks.parallel.comm import Comm, run_threads
from tasks.parallel.kmeans import Clusters, choose_clusters, kmeans, nearest, silhouette

Array = npt.NDArray[Any]
KS = range(2, 8)


def blobs(centers: int = 4, n: int = 300, seed: int = 1, spread: float = 0.6) -> tuple[Array, Array]:
    corners = 8 * np.array(list(np.ndindex(2, 2, 2)))[:centers]
    x, truth, *_ = make_blobs(n, 3, centers=corners, cluster_std=spread, random_state=seed)
    return x, truth


def parts(x: Array, edges: list[int], *rest: Any) -> list[tuple[Any, ...]]:
    return [(x[a:b], *rest) for a, b in pairwise([0, *edges, len(x)])]


def fit(comm: Comm, x: Array, k: int, seed: int = 0) -> Clusters:
    return kmeans(comm, x, k, seed=seed, starts=2)


def choose(comm: Comm, x: Array, sample: int = 200, ks: range = KS) -> tuple[Clusters, dict[int, float]]:
    return choose_clusters(comm, x, ks, sample=sample, seed=0)


@pytest.mark.parametrize("edges", [[], [100], [0, 7, 7, 250]])
def test_blobs_are_parted_as_scikit_learn_parts_them(edges: list[int]) -> None:
    x, _ = blobs(5, seed=2, spread=1.5)
    peer = KMeans(5, n_init=5, random_state=0).fit(x)
    results = run_threads(fit, parts(x, edges, 5))
    assert len({c.centres.tobytes() for c in results}) == 1
    assert results[0].inertia == pytest.approx(peer.inertia_, rel=1e-6)
    assert adjusted_rand_score(results[0].labels(x), peer.labels_) > 0.99


def test_inertia_is_of_the_centres_that_come_back() -> None:
    x = np.random.default_rng(0).standard_normal((500, 4))
    clusters = run_threads(fit, parts(x, [200], 6))[0]
    assert clusters.inertia == pytest.approx(nearest(x, clusters.centres)[1].sum())


def test_points_far_from_the_origin_are_told_apart() -> None:
    x, truth = blobs(3)
    assert adjusted_rand_score(run_threads(fit, parts(x + 1e7, [50], 3))[0].labels(x + 1e7), truth) == 1


@pytest.mark.parametrize("centers", [2, 4, 6])
def test_the_number_of_blobs_is_found_by_silhouette(centers: int) -> None:
    x, truth = blobs(centers, seed=3)
    (clusters, scores), other = run_threads(choose, parts(x, [120]))
    assert max(scores, key=scores.__getitem__) == len(clusters.centres) == centers
    assert adjusted_rand_score(clusters.labels(x), truth) == 1
    assert other[1] == scores


def test_silhouette_is_scikit_learns_and_a_lone_point_counts_for_nothing() -> None:
    x, _ = blobs(3, 80, spread=3.0)
    labels = np.random.default_rng(0).integers(0, 4, 80) * 10
    labels[5] = 99
    assert silhouette(x, labels) == pytest.approx(silhouette_score(x, labels))
    with pytest.raises(ValueError, match="at least two clusters"):
        silhouette(x, np.zeros(80))


def test_points_that_do_not_differ_are_one_cluster_and_no_points_are_none() -> None:
    same = np.ones((9, 2))
    assert len(run_threads(fit, parts(same, [4], 3))[0].centres) == 1
    (clusters, scores), _ = run_threads(choose, parts(same, [4]))
    np.testing.assert_allclose(clusters.centres, [[1, 1]])
    assert scores == {}
    (clusters, scores), _ = run_threads(choose, parts(np.zeros((0, 2)), [0]))
    assert (clusters.centres.shape, scores) == ((0, 2), {})


def test_no_more_clusters_are_tried_than_points_differ() -> None:
    x = np.array([[0.0], [0.0], [0.1], [9.0], [9.0]])
    (clusters, scores), _ = run_threads(choose, parts(x, [2]))
    assert list(scores) == [2, 3]
    assert len(clusters.centres) == max(scores, key=scores.__getitem__)
