"""The text score on ranks of one process: right by hand, the same however files are dealt out, and blind to later."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tasks.core.snapshot_files import FileSink
from tasks.parallel.comm import Comm, run_threads
from tasks.parallel.token_matrix import FilePair, hash_tokens
from tasks.stages.features import text_fields, text_score
from tasks.stages.features.text_score_blocks import MIN_DOCUMENTS, fit_shard
from tasks.stages.features.text_score_fit import fit_and_score, interleaved
from tasks.stages.features.text_score_rows import Task, read_shard
from tasks.stages.features.text_score_settings import TextScoreConfig

CUTS = np.array([100, 200, 300])
CONFIG = TextScoreConfig(
    dimensions=1024, borders=[0.25, 0.5, 0.75], shards=1, l2=0.5, ridge_l2=0.5, iterations=60, max_reviews=1_000_000
)
NEWLINE = 998
VOCABULARY = [f"w{i}" for i in range(NEWLINE)] + ["\u010a", "w999"]
READER = text_fields.Reader.of(VOCABULARY, CONFIG.dimensions)
TASK = Task(CUTS, READER)
Reviews = tuple[np.ndarray, np.ndarray, list[list[int]]]  # times (n,) ms, ratings (n,), token ids


def reviews(n: int = 240, seed: int = 0) -> Reviews:
    """Ratings that tokens 0..4 decide, over times 0..400."""
    rng = np.random.default_rng(seed)
    ratings = rng.integers(1, 6, n).astype(np.float32)
    tokens = [[int(r) - 1, *rng.integers(5, 60, rng.integers(0, 6)).tolist()] for r in ratings]
    return rng.integers(0, 400, n), ratings, tokens


def write(folder: Path, data: Reviews, files: int) -> list[FilePair]:
    times, ratings, tokens = data
    sink = FileSink(str(folder))
    pairs = []
    for i, rows in enumerate(np.array_split(np.arange(len(times)), files)):
        stamps = pa.array(times[rows], pa.int64()).cast(pa.timestamp("ms", tz="UTC"))
        votes = pa.array(rows % 7, pa.int32())
        reviews = {"timestamp": stamps, "rating": ratings[rows], "helpful_votes": votes, "total_votes": votes}
        sink.write_table(f"r{i}.parquet", pa.table(reviews))
        ids = pa.array([tokens[j] for j in rows], pa.list_(pa.int32()))
        sink.write_table(f"t{i}.parquet", pa.table({"input_ids": ids}))
        pairs.append((folder / f"r{i}.parquet", folder / f"t{i}.parquet"))
    return pairs


def fit(pairs: list[FilePair], shards: int = 1, task: Task = TASK) -> text_score.TextScore:
    def work(comm: Comm) -> list[text_score.Model]:
        return fit_shard(comm, read_shard(comm, pairs, task), CONFIG, task)

    results = run_threads(work, [()] * shards)
    return text_score.TextScore(task.cuts, task.reader, *results[0])


def ids_of(tokens: list[list[int]]) -> pa.ListArray:
    return pa.array(tokens, pa.list_(pa.int32()))


def hashed(tokens: list[list[int]]) -> text_score.csr_matrix:
    return hash_tokens(pa.array(tokens, pa.list_(pa.int32())), CONFIG.dimensions)


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
    cut = hash_tokens(whole.slice(1, 2), CONFIG.dimensions)
    np.testing.assert_array_equal(cut.toarray(), hashed(tokens[1:3]).toarray())


def test_tokens_that_differ_in_case_or_in_the_space_before_them_count_as_the_same() -> None:
    folds = text_fields.folded(
        ["Great", "\u0120great", "\u0120gre", "GREAT", "\u0120", "\u00c3", "\u00e3", "", "\u2581great"]
    )
    assert folds.tolist() == [0, 0, 2, 0, 4, 5, 6, 7, 0]  # what is no ASCII is left as it is: bytes, not letters
    one, other = hash_tokens(ids_of([[0, 2], [3, 2]]), 1024, folds).toarray()
    np.testing.assert_array_equal(one, other)


def test_the_title_is_what_stands_before_the_first_newline() -> None:
    tokens = [[1, 2, NEWLINE, 3, NEWLINE, 4], [5, 6], [NEWLINE, 7], [], [8, NEWLINE]]
    assert READER.titles(ids_of(tokens)).to_pylist() == [[1, 2], [], [], [], [8]]
    assert READER.titles(ids_of(tokens).slice(1, 4)).to_pylist() == [[], [], [], [8]]
    assert text_fields.Reader.of(["a", "b"], 1024).titles(ids_of([[0, 1]])).to_pylist() == [[]]


def test_each_block_is_scored_by_the_regression_on_the_blocks_before_it(tmp_path: Path) -> None:
    from scipy.optimize import minimize

    data = reviews()
    times, ratings, tokens = data
    x = hashed(tokens)
    scores = fit(write(tmp_path, data, 3)).score(ids_of(tokens), times)[0]
    block = np.searchsorted(CUTS, times, side="right")
    assert np.isnan(scores[block == 0]).all()
    for k in (1, 3):
        past, now = x[block < k], x[block == k]
        documents = np.asarray((past > 0).sum(axis=0)).ravel()
        idf = np.where(documents < MIN_DOCUMENTS, 0, np.log((1 + past.shape[0]) / (1 + documents)) + 1)
        a, b = tf_idf(past, idf), tf_idf(now, idf)
        used = np.flatnonzero(a.any(axis=0))
        y = ratings[block < k] > 3

        def loss(w: np.ndarray, a: np.ndarray = a[:, used], y: np.ndarray = y) -> float:
            z = a @ w[:-1] + w[-1]
            return float((np.logaddexp(0, z) - y * z).sum() + CONFIG.l2 / 2 * (w[:-1] ** 2).sum())

        w = minimize(loss, np.zeros(len(used) + 1), method="L-BFGS-B", options={"maxfun": 10**6}).x
        expected = 1 / (1 + np.exp(-(b[:, used] @ w[:-1] + w[-1])))
        np.testing.assert_allclose(scores[block == k, text_score.STARS.index(3)], expected, atol=0.02)


def test_the_score_is_in_the_unit_of_the_target(tmp_path: Path) -> None:
    data = reviews()
    times, ratings, tokens = data
    late = times >= CUTS[-1]
    scores = [field[late] for field in fit(write(tmp_path, data, 2)).score(ids_of(tokens), times)]
    stars = text_score.columns(scores, "rating")["text_score"]
    assert np.abs(stars - ratings[late]).mean() < 0.8 < np.abs(ratings[late] - ratings.mean()).mean()
    ridge = text_score.columns(scores, "rating")["text_ridge"]
    assert np.abs(ridge - ratings[late]).mean() < 0.8
    positive = text_score.columns(scores, "positive")
    np.testing.assert_array_equal(positive["text_score"], positive["text_above_3"])


def test_helpfulness_is_learned_where_it_is_the_target_and_known(tmp_path: Path) -> None:
    times, _, tokens = data = reviews()
    task = Task(CUTS, READER, target="helpful", min_votes=3)
    found = fit(write(tmp_path, data, 2), 2, task).score(ids_of(tokens), times)
    scores = [field[times >= CUTS[-1]] for field in found]
    # All votes are helpful ones, and where there are none the share is not known: all that is learned is a one.
    assert text_score.columns(scores, "helpful")["text_score"].min() > 0.8


def test_of_too_many_reviews_every_so_many_is_learned_from(tmp_path: Path) -> None:
    times, ratings, tokens = data = reviews()
    half = Task(CUTS, READER, stride=2)
    (tmp_path / "half").mkdir()
    same = fit(write(tmp_path / "half", (times[::2], ratings[::2], tokens[::2]), 1))
    np.testing.assert_array_equal(fit(write(tmp_path, data, 1), 1, half).whole.weights, same.whole.weights)


def test_a_review_of_the_very_border_belongs_to_the_later_block(tmp_path: Path) -> None:
    scores = fit(write(tmp_path, reviews(), 1)).score(ids_of([[0], [0]]), np.array([99, 100]))[0]
    assert list(np.isnan(scores[:, 0])) == [True, False]


@pytest.mark.parametrize("shards", [2, 5])
def test_the_number_of_shards_changes_scores_by_rounding_only(tmp_path: Path, shards: int) -> None:
    data = reviews()
    pairs = write(tmp_path, data, 4)  # at five shards one has no file at all
    ids = ids_of(data[2])
    one, many = (fit(pairs, n).score(ids, data[0])[0] for n in (1, shards))
    np.testing.assert_allclose(one, many, atol=0.02)


def test_the_same_files_give_the_same_bits_twice(tmp_path: Path) -> None:
    pairs = write(tmp_path, reviews(), 4)
    np.testing.assert_array_equal(fit(pairs, 2).whole.weights, fit(pairs, 2).whole.weights)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_no_score_changes_when_ratings_and_texts_of_its_own_block_or_later_ones_do(tmp_path: Path, k: int) -> None:
    times, ratings, tokens = data = reviews()
    later = times >= CUTS[k - 1]
    changed = np.where(later, 6 - ratings, ratings).astype(np.float32)
    other = [[999, 997] if late else ids for ids, late in zip(tokens, later, strict=True)]
    (tmp_path / "other").mkdir()
    before = fit(write(tmp_path, data, 3), 2)
    after = fit(write(tmp_path / "other", (times, changed, other), 3), 2)
    for name in ("idf", "weights"):
        np.testing.assert_array_equal(getattr(before.whole, name)[:k], getattr(after.whole, name)[:k])
    if k < 3:  # the models that may know of the change do
        assert not np.array_equal(before.whole.weights[k], after.whole.weights[k])


def test_a_review_without_tokens_is_scored_by_the_intercept(tmp_path: Path) -> None:
    times, ratings, tokens = reviews()
    model = fit(write(tmp_path, (times, ratings, tokens), 2))
    score = model.score(ids_of([[]]), np.array([350]))[0]
    intercepts = model.whole.weights[-1][-1]
    np.testing.assert_allclose(score[0], [*1 / (1 + np.exp(-intercepts[:-1])), intercepts[-1]], atol=1e-6)
    assert intercepts[-1] == pytest.approx(ratings[times < 300].mean(), abs=1e-5)


def test_a_block_without_reviews_before_it_is_scored_with_a_finite_number(tmp_path: Path) -> None:
    times, ratings, tokens = reviews()
    late = 150 + times // 4  # nothing before the first border
    model = fit(write(tmp_path, (late, ratings, tokens), 2), 2)
    assert np.isfinite(model.score(ids_of(tokens), late)[0][late >= 100]).all()


@pytest.mark.parametrize(("shards", "stride"), [(1, 1), (3, 1), (2, 2)])
def test_ranks_score_each_row_once_as_the_models_do(tmp_path: Path, shards: int, stride: int) -> None:
    times, ratings, tokens = reviews(50)
    pairs = write(tmp_path, (times, ratings, tokens), 4)
    task = Task(CUTS, READER, stride)
    results = run_threads(lambda comm: fit_and_score(comm, pairs, config=CONFIG, task=task), [()] * shards)
    model = fit(pairs, shards, task)
    for i, rows in enumerate(np.array_split(np.arange(50), 4)):
        whole, title = interleaved([result[1 + i] for result in results])
        expected = model.score(ids_of([tokens[j] for j in rows]), times[rows])
        np.testing.assert_allclose(whole, expected[0], atol=1e-5)
        np.testing.assert_allclose(title, expected[1], atol=1e-5)
