"""Word2Vec: gradients as measured, tokens of the same company near each other, the same in every run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

from tasks.parallel import word2vec
from tasks.parallel.comm import Comm, run_threads
from tasks.parallel.comm_actors import run_actors
from tasks.parallel.word2vec import Batch, Word2VecParams, WordVectors, fit_word2vec, gradients

Array = npt.NDArray[Any]
METHODS: tuple[Literal["skip-gram", "cbow"], ...] = ("skip-gram", "cbow")
VOCABULARY = 60
PARAMS = Word2VecParams(
    "skip-gram", dimensions=12, window=3, epochs=6, learning_rate=0.1, subsample=1.0, min_count=2, batch=64
)


def company(documents: int = 600, seed: int = 0) -> tuple[Array, Array]:
    """(tokens, lengths): tokens 0..4 stand among 10..24 alone, tokens 5..9 among 25..39; 59 occurs once."""
    rng = np.random.default_rng(seed)
    made = [[59]]
    for i in range(documents):
        group = i % 2
        around = rng.integers(10, 25, 8) + 15 * group
        around[[2, 5]] = rng.integers(0, 5, 2) + 5 * group
        made.append(around.tolist())
    return np.concatenate([np.array(d) for d in made]), np.array([len(d) for d in made])


def fit(comm: Comm, tokens: Array, lengths: Array, params: Word2VecParams) -> WordVectors:
    return fit_word2vec(comm, tokens, lengths, vocabulary=VOCABULARY, params=params)


def shards(data: tuple[Array, Array], count: int, params: Word2VecParams) -> list[tuple[Any, ...]]:
    tokens, lengths = data
    documents = np.split(tokens, np.cumsum(lengths)[:-1])
    dealt = [range(i, len(documents), count) for i in range(count)]
    return [(np.concatenate([documents[j] for j in mine]), lengths[list(mine)], params) for mine in dealt]


@pytest.mark.parametrize("sources", [1, 4])
def test_gradients_are_those_measured_by_small_steps(sources: int) -> None:
    rng = np.random.default_rng(sources)
    inputs, outputs = rng.standard_normal((2, 7, 5))
    given = np.ones((6, sources))
    given[:3, 1:] = 0  # some have one source only
    batch = Batch(rng.integers(0, 7, (6, sources)), given, rng.integers(0, 7, 6))
    noise = np.array([0, 1, 2, 2, *batch.target[:1]])
    found = gradients(inputs, outputs, batch, noise, 3)
    places = [(inputs, [(batch.sources, found.sources)])]
    places += [(outputs, [(batch.target, found.target), (noise, found.noise)])]
    for matrix, parts in places:
        whole = np.zeros_like(matrix)
        for rows, gradient in parts:
            np.add.at(whole, rows, gradient)
        measured = np.zeros_like(matrix)
        for place in np.ndindex(*matrix.shape):
            for sign in (1, -1):
                matrix[place] += sign * 1e-5
                measured[place] += sign * gradients(inputs, outputs, batch, noise, 3).loss / 2e-5
                matrix[place] -= sign * 1e-5
        np.testing.assert_allclose(whole, measured, atol=1e-7)


def test_the_loss_is_that_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    inputs, outputs = 3 * rng.standard_normal((2, 4, 5))
    batch = Batch(np.array([[0, 1], [2, 2]]), np.array([[1, 1], [1, 0]]), np.array([3, 1]))
    expected = 0.0
    for h, target, noise in ((inputs[:2].mean(axis=0), 3, [0, 1]), (inputs[2], 1, [0, 3])):  # a target is no noise
        expected += np.log(1 + np.exp(-h @ outputs[target]))
        expected += 5 / 3 * sum(np.log(1 + np.exp(h @ outputs[n])) for n in noise)
    assert gradients(inputs, outputs, batch, np.array([0, 1, 3]), 5).loss == pytest.approx(expected)


def test_a_step_moves_a_row_that_is_met_twice_by_both_gradients() -> None:
    matrix = np.zeros((3, 2), dtype=np.float32)
    word2vec._descend(matrix, np.array([[2, 0], [2, 2]]), np.arange(8.0).reshape(2, 2, 2), 0.5)
    np.testing.assert_array_equal(matrix, [[-1, -1.5], [0, 0], [-5, -6.5]])


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_tokens_in_the_same_company_become_neighbours(
    method: Literal["skip-gram", "cbow"], world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word2vec, "ROUND_TOKENS", 800)
    results = run_threads(fit, shards(company(), world, replace(PARAMS, method=method, epochs=10)))
    assert len({r.vectors.tobytes() for r in results}) == 1
    model = results[0]
    assert model.ids.tolist() == list(range(40))  # 59 was met once, 40..58 never
    assert np.mean(model.losses[-5:]) < 0.95 * model.losses[0]
    unit = model.vectors / np.linalg.norm(model.vectors, axis=1, keepdims=True)
    near = unit[:10] @ unit[:10].T
    np.fill_diagonal(near, np.nan)
    alike = np.nanmean([near[:5, :5], near[5:, 5:]])
    assert alike > np.mean(near[:5, 5:]) + 0.5
    # Each one's nearest is of its own kind.
    assert (np.nanargmax(near, axis=1) // 5).tolist() == [0] * 5 + [1] * 5


@pytest.mark.parametrize("method", METHODS)
def test_examples_are_each_place_with_its_neighbours_in_the_same_document(
    method: Literal["skip-gram", "cbow"],
) -> None:
    tokens, lengths = np.array([1, 2, 3, 9, 4, 5]), np.array([3, 0, 1, 2])
    params = replace(PARAMS, method=method, window=1)
    made = word2vec._examples(tokens, lengths, params, np.random.default_rng(0))
    found = {
        (target, tuple(sorted(s for s, g in zip(sources, given, strict=True) if g)))
        for sources, given, target in zip(made.sources.tolist(), made.given, made.target.tolist(), strict=True)
    }
    if method == "skip-gram":
        assert found == {(2, (1,)), (1, (2,)), (3, (2,)), (2, (3,)), (5, (4,)), (4, (5,))}
    else:
        assert found == {(1, (2,)), (2, (1, 3)), (3, (2,)), (4, (5,)), (5, (4,))}


def test_neighbours_are_the_nearer_the_more_often() -> None:
    n, window = 4000, 4
    made = word2vec._examples(np.arange(n), np.array([n]), replace(PARAMS, window=window), np.random.default_rng(0))
    away = np.bincount(np.abs(made.target - made.sources[:, 0]), minlength=window + 1)
    np.testing.assert_allclose(away / (2 * n), [0, 1, 0.75, 0.5, 0.25], atol=0.03)


def test_frequent_tokens_are_thinned_out_and_the_rest_kept() -> None:
    tokens, lengths = np.array([0] * 9000 + [1] * 1000), np.array([5000, 5000])
    keep = np.array([1 / 3, 1.0])
    kept, left = word2vec._thinned(tokens, lengths, keep, np.random.default_rng(0))
    assert (kept == 1).sum() == 1000
    assert (kept == 0).sum() == pytest.approx(3000, rel=0.1)
    assert left.tolist() == [(kept == 0).sum() - left[1] + 1000, left[1]]
    assert left.sum() == len(kept)


def test_the_same_twice_and_another_with_another_seed() -> None:
    given = replace(PARAMS, epochs=1, subsample=0.01)
    one, again, other = (
        run_threads(fit, shards(company(60), 2, params))[0].vectors for params in (given, given, replace(given, seed=8))
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_token_that_one_rank_alone_has_moves_as_far_as_it_does_there() -> None:
    before, after = np.zeros((3, 2)), [np.array([[2.0, 2], [4, 4], [0, 0]]), np.array([[0.0, 0], [8, 8], [0, 0]])]
    for met in run_threads(word2vec._met, [(before, a) for a in after]):
        np.testing.assert_array_equal(met, [[2, 2], [6, 6], [0, 0]])


def test_a_rank_without_documents_and_a_corpus_without_frequent_tokens() -> None:
    nothing = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    tokens, lengths = company(40)
    some, same = run_threads(fit, [(tokens, lengths, PARAMS), (*nothing, PARAMS)])
    np.testing.assert_array_equal(some.vectors, same.vectors)
    assert np.isfinite(some.vectors).all()
    for model in run_threads(fit, [(np.arange(9), np.array([9]), PARAMS), (*nothing, PARAMS)]):
        assert (len(model.ids), model.vectors.shape) == (0, (0, 12))


def test_actors_give_the_vectors_of_the_oracle(ray_session: None) -> None:
    arguments = shards(company(60), 2, replace(PARAMS, epochs=1, method="cbow"))
    expected, actual = run_threads(fit, arguments), run_actors(fit, arguments)
    np.testing.assert_allclose(actual[0].vectors, expected[0].vectors, atol=1e-6)
    assert actual[0].vectors.tobytes() == actual[1].vectors.tobytes()
