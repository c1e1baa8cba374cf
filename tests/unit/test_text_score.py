"""The text score on ranks of one process: right by hand, the same however files are dealt out, and blind to later."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tasks import text_score
from tasks.core.settings import TextScoreConfig
from tasks.core.snapshots import FileSink
from tasks.parallel.comm import run_threads

CUTS = np.array([100, 200, 300])
CONFIG = TextScoreConfig(enabled=True, dimensions=1024, blocks=4, shards=1, l2=0.5, iterations=300)
Reviews = tuple[np.ndarray, np.ndarray, list[list[int]]]  # times (n,) ms, ratings (n,), token ids


def reviews(n: int = 240, seed: int = 0) -> Reviews:
    """Ratings that tokens 0..4 decide, over times 0..400."""
    rng = np.random.default_rng(seed)
    ratings = rng.integers(1, 6, n).astype(np.float32)
    tokens = [[int(r) - 1, *rng.integers(5, 60, rng.integers(0, 6)).tolist()] for r in ratings]
    return rng.integers(0, 400, n), ratings, tokens


def write(folder: Path, data: Reviews, files: int) -> list[text_score.FilePair]:
    times, ratings, tokens = data
    sink = FileSink(str(folder))
    pairs = []
    for i, rows in enumerate(np.array_split(np.arange(len(times)), files)):
        stamps = pa.array(times[rows], pa.int64()).cast(pa.timestamp("ms", tz="UTC"))
        sink.write_table(f"r{i}.parquet", pa.table({"timestamp": stamps, "rating": ratings[rows]}))
        ids = pa.array([tokens[j] for j in rows], pa.list_(pa.int32()))
        sink.write_table(f"t{i}.parquet", pa.table({"input_ids": ids}))
        pairs.append((folder / f"r{i}.parquet", folder / f"t{i}.parquet"))
    return pairs


def fit(pairs: list[text_score.FilePair], shards: int = 1, config: TextScoreConfig = CONFIG) -> text_score.TextScore:
    dealt = [(pairs[i::shards],) for i in range(shards)]
    results = run_threads(lambda comm, files: text_score.fit_rank(comm, files, config=config, cuts=CUTS), dealt)
    for other in results[1:]:
        np.testing.assert_array_equal(other.weights, results[0].weights)
    return results[0]


def hashed(tokens: list[list[int]]) -> text_score.csr_matrix:
    return text_score.hash_tokens(pa.array(tokens, pa.list_(pa.int32())), CONFIG.dimensions)


def tf_idf(x: text_score.csr_matrix, idf: np.ndarray) -> np.ndarray:
    """Dense rows times idf, scaled to unit length: the obvious way."""
    weighted = x.toarray().astype(np.float64) * idf
    return weighted / np.maximum(np.linalg.norm(weighted, axis=1, keepdims=True), 1e-12)


def test_counts_are_of_tokens_and_of_pairs_within_one_review() -> None:
    x = hashed([[7, 8], [9], [], [7, 7, 7]]).toarray()
    assert [np.count_nonzero(row) for row in x] == [3, 1, 0, 2]  # no pair (8, 9) across reviews
    one, three = x[0].max(), x[3].max()
    assert (one, three) == (1.0, pytest.approx(1 + np.log(3)))
    assert np.count_nonzero(hashed([[1, 2]]).toarray() - hashed([[2, 1]]).toarray()) == 2  # pairs have an order


def test_a_slice_of_a_list_column_is_hashed_like_a_column_of_its_own() -> None:
    tokens = [[1, 2, 3], [], [4, 5], [6]]
    whole = pa.array(tokens, pa.list_(pa.int32()))
    cut = text_score.hash_tokens(whole.slice(1, 2), CONFIG.dimensions)
    np.testing.assert_array_equal(cut.toarray(), hashed(tokens[1:3]).toarray())


def test_each_block_is_scored_by_the_ridge_solution_of_the_blocks_before_it(tmp_path: Path) -> None:
    data = reviews()
    times, ratings, tokens = data
    x = hashed(tokens)
    scores = fit(write(tmp_path, data, 3)).score(x, times)
    block = np.searchsorted(CUTS, times, side="right")
    assert np.isnan(scores[block == 0]).all()
    for k in (1, 2, 3):
        past, now = x[block < k], x[block == k]
        documents = np.asarray((past > 0).sum(axis=0)).ravel()
        idf = np.log((1 + past.shape[0]) / (1 + documents)) + 1
        a, mean = tf_idf(past, idf), ratings[block < k].mean()
        w = a.T @ np.linalg.solve(a @ a.T + CONFIG.l2 * np.eye(len(a)), ratings[block < k] - mean)
        np.testing.assert_allclose(scores[block == k], tf_idf(now, idf) @ w + mean, atol=2e-3)


def test_a_review_of_the_very_border_belongs_to_the_later_block(tmp_path: Path) -> None:
    scores = fit(write(tmp_path, reviews(), 1)).score(hashed([[0], [0]]), np.array([99, 100]))
    assert list(np.isnan(scores)) == [True, False]


@pytest.mark.parametrize("shards", [2, 3, 5])
def test_the_number_of_shards_changes_scores_by_rounding_only(tmp_path: Path, shards: int) -> None:
    data = reviews()
    pairs = write(tmp_path, data, 4)  # at five shards one has no file at all
    x = hashed(data[2])
    np.testing.assert_allclose(fit(pairs, shards).score(x, data[0]), fit(pairs).score(x, data[0]), atol=2e-3)


def test_the_same_files_give_the_same_bits_twice(tmp_path: Path) -> None:
    pairs = write(tmp_path, reviews(), 4)
    np.testing.assert_array_equal(fit(pairs, 2).weights, fit(pairs, 2).weights)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_no_score_changes_when_ratings_and_texts_of_its_own_block_or_later_ones_do(tmp_path: Path, k: int) -> None:
    times, ratings, tokens = data = reviews()
    later = times >= CUTS[k - 1]
    changed = np.where(later, 6 - ratings, ratings).astype(np.float32)
    other = [[999, 998] if late else ids for ids, late in zip(tokens, later, strict=True)]
    (tmp_path / "other").mkdir()
    before = fit(write(tmp_path, data, 3), 2)
    after = fit(write(tmp_path / "other", (times, changed, other), 3), 2)
    for name in ("idf", "weights", "mean"):
        np.testing.assert_array_equal(getattr(before, name)[:k], getattr(after, name)[:k])
    if k < 3:  # the models that may know of the change do
        assert not np.array_equal(before.weights[k], after.weights[k])


def test_a_review_without_tokens_is_scored_by_the_mean_of_the_past(tmp_path: Path) -> None:
    times, ratings, tokens = reviews()
    model = fit(write(tmp_path, (times, ratings, tokens), 2))
    score = model.score(hashed([[]]), np.array([350]))
    assert score[0] == pytest.approx(ratings[times < 300].mean(), abs=1e-5)


def test_a_block_without_reviews_before_it_is_scored_with_a_finite_number(tmp_path: Path) -> None:
    times, ratings, tokens = reviews()
    late = 150 + times // 4  # nothing before the first border
    model = fit(write(tmp_path, (late, ratings, tokens), 2), 2)
    assert np.isfinite(model.score(hashed(tokens), late)[late >= 100]).all()
