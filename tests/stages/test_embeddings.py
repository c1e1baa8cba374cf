"""Vectors of reviews and segments of users on ranks of one process: right by hand, and blind to later reviews."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from tasks.core.errors import SettingsError
from tasks.core.snapshot_files import FileSink, part_name
from tasks.parallel.comm import run_threads
from tasks.parallel.exchange import shuffle_in_process
from tasks.parallel.kmeans import Clusters
from tasks.parallel.token_matrix import FilePair, hash_tokens
from tasks.settings import load_settings
from tasks.stages.embeddings import review_vectors, user_segments
from tasks.stages.embeddings import stage as embeddings
from tasks.stages.embeddings.settings import EmbeddingsConfig

BORDER, VOCABULARY = 300, 40
Rows = list[dict[str, Any]]


def config(*more: str) -> EmbeddingsConfig:
    small = ("dimensions=3", "svd.buckets=1024", "word2vec.min_count=1", "segments.max_clusters=3", *more)
    return load_settings(overrides=[f"embeddings.{setting}" for setting in small]).embeddings


def some_rows(count: int = 120) -> Rows:
    """Reviews at 0..599 by 20 users, ten of whom write with tokens 0..9 and ten with 10..19; one says nothing."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        user = int(rng.integers(20))
        tokens = (rng.integers(0, 10, 1 + rng.integers(8)) + 10 * (user % 2)).tolist()
        rows.append({"user": f"U{user}", "ms": int(rng.integers(600)), "tokens": [] if i == 7 else tokens})
    return rows


def write(folder: Path, *parts: Rows) -> list[FilePair]:
    sink, number, pairs = FileSink(str(folder)), 0, []
    for i, part in enumerate(parts):
        columns = {
            "review_id": pa.array([f"R{number + j}" for j in range(len(part))], pa.string()),
            "user_id": pa.array([r["user"] for r in part], pa.string()),
            "timestamp": pa.array([r["ms"] for r in part], pa.timestamp("ms", tz="UTC")),
        }
        sink.write_table(f"r{i}.parquet", pa.table(columns))
        ids = pa.array([r["tokens"] for r in part], pa.list_(pa.int32()))
        sink.write_table(f"t{i}.parquet", pa.table({"input_ids": ids}))
        pairs.append((folder / f"r{i}.parquet", folder / f"t{i}.parquet"))
        number += len(part)
    return pairs


def embed(folder: Path, config: EmbeddingsConfig, *parts: Rows) -> tuple[pl.DataFrame, Any, dict[str, Any]]:
    """What the stage does, without Ray: (its table, the model, facts)."""
    pairs = write(folder, *parts)
    fit = partial(review_vectors.fit_rank, border=BORDER, vocabulary=VOCABULARY, config=config)
    model, facts = run_threads(fit, [(pairs[i :: config.shards],) for i in range(config.shards)])[0]
    blocks = [embeddings.embed_file(pair, model) for pair in pairs]
    users = shuffle_in_process(blocks, user_segments.split, user_segments.together, config.shards)
    cluster = partial(user_segments.fit_rank, border=BORDER, config=config.segments, seed=config.seed)
    (clusters, about), *others = run_threads(cluster, [(u,) for u in users])
    assert all(about == other for _, other in others)
    answers = [user_segments.answer(u, clusters, len(blocks)) for u in users]
    answers = [a if len(blocks) > 1 else (a,) for a in answers]
    for i, block in enumerate(blocks):
        pieces = [a[i] for a in answers]
        embeddings.write_file(FileSink(str(folder)), i, block, embeddings.schema(config), *pieces)
    table = pl.concat([pl.read_parquet(folder / part_name(i)) for i in range(len(blocks))])
    return table, model, {**facts, **about}


def vectors(table: pl.DataFrame) -> np.ndarray:
    return table.select(f"emb_{i}" for i in range(3)).to_numpy()


def test_svd_vectors_are_projections_of_the_weighted_tokens_on_what_the_earlier_reviews_span(tmp_path: Path) -> None:
    rows = some_rows()
    table, model, facts = embed(tmp_path, config("svd.iterations=15"), rows[:50], [], rows[50:])
    assert table["review_id"].to_list() == [f"R{i}" for i in range(len(rows))]
    early = np.array([r["ms"] < BORDER for r in rows])
    counts = hash_tokens(pa.array([r["tokens"] for r in rows], pa.list_(pa.int32())), 1024).toarray()
    idf = np.log((1 + early.sum()) / (1 + (counts[early] > 0).sum(axis=0))) + 1
    x = counts * idf
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    _, values, vt = np.linalg.svd(x[early], full_matrices=False)
    np.testing.assert_allclose(model.idf, idf, rtol=1e-6)
    np.testing.assert_allclose(facts["singular_values"], values[:3], rtol=1e-5)
    found, some = vectors(table), np.arange(len(rows)) != 7
    assert np.isnan(found[7]).all()  # it has no tokens
    np.testing.assert_allclose(np.abs(found[some]), np.abs(x[some] @ vt[:3].T), atol=1e-4)


def test_users_who_write_alike_share_a_segment_and_new_ones_have_none(tmp_path: Path) -> None:
    rows = some_rows()
    table, _, facts = embed(tmp_path, config(), rows[:50], rows[50:])
    assert facts["clusters"] == 2
    assert facts["silhouettes"]["2"] == max(facts["silhouettes"].values())
    seen: dict[int, set[int]] = {0: set(), 1: set()}
    for row, segment in zip(rows, table["segment"].to_list(), strict=True):
        known = any(r["user"] == row["user"] and r["ms"] < row["ms"] and r["tokens"] for r in rows)
        assert (segment is not None) == known
        if known:
            seen[int(row["user"][1:]) % 2].add(segment)
    assert sorted(map(sorted, seen.values())) == [[0], [1]]


def test_word2vec_vectors_are_means_over_the_tokens_that_are_known(tmp_path: Path) -> None:
    rows = some_rows()
    rows[3] = {**rows[3], "ms": 10, "tokens": [39]}  # met once only
    table, model, facts = embed(tmp_path, config("method=skip-gram", "word2vec.min_count=2", "shards=1"), rows)
    assert model.known.sum() == facts["tokens"] == 20
    found = vectors(table)
    for i, row in enumerate(rows):
        expected = model.table[row["tokens"]].mean(axis=0) if i not in (3, 7) else np.full(3, np.nan)
        np.testing.assert_allclose(found[i], expected, atol=1e-6)


@pytest.mark.parametrize("method", ["svd", "skip-gram", "cbow"])
@pytest.mark.parametrize("moment", [BORDER, 450])
def test_no_vector_nor_segment_changes_when_later_reviews_do(tmp_path: Path, method: str, moment: int) -> None:
    rows, chosen = some_rows(), config(f"method={method}")
    later = [r["ms"] >= moment for r in rows]
    changed = [{**r, "tokens": [35, 36, 3], "user": "U3"} if late else r for r, late in zip(rows, later, strict=True)]
    before, after = (
        embed(tmp_path / name, chosen, some[:50], some[50:])[0] for name, some in (("a", rows), ("b", changed))
    )
    earlier = ~np.array(later)
    assert before.filter(earlier).equals(after.filter(earlier))
    assert before.filter(earlier)["segment"].is_not_null().sum() > 20
    assert not before.filter(~earlier)["emb_0"].equals(after.filter(~earlier)["emb_0"])


def test_reviews_without_words_have_no_vectors_and_their_users_no_segments(tmp_path: Path) -> None:
    silent = [{**r, "tokens": []} for r in some_rows(12)]
    for i, method in enumerate(("svd", "cbow")):
        table, _, facts = embed(tmp_path / str(i), config(f"method={method}"), silent, [])
        assert table.null_count().row(0) == (0, 12, 12, 12, 12)
        assert facts["clusters"] == 0


def test_later_words_that_no_earlier_review_spans_are_zeros_and_not_noise(tmp_path: Path) -> None:
    rows = [{"user": "a", "ms": 10 * i, "tokens": [1]} for i in range(5)]
    table, _, facts = embed(tmp_path, config(), [*rows, {"user": "b", "ms": 400, "tokens": [2]}])
    np.testing.assert_allclose(facts["singular_values"], [np.sqrt(5), 0, 0], atol=1e-5)
    np.testing.assert_allclose(vectors(table), [[1, 0, 0]] * 5 + [[0, 0, 0]], atol=1e-6)


def test_a_segment_is_of_the_mean_over_what_came_strictly_before() -> None:
    past = [(5.0, 0.0), (0.0, 9.0), (None, None), (0.0, 1.0), (1.0, 0.0)]
    users = {
        "user_id": ["a", "a", "a", "a", "b"],
        "ms": [1, 2, 2, 3, 9],
        "emb_0": pa.array([v[0] for v in past], pa.float32()),
        "emb_1": pa.array([v[1] for v in past], pa.float32()),
        "row": [0, 0, 1, 1, 2],
        "block": pa.array([0, 1, 1, 0, 0], pa.int32()),
    }
    answered = user_segments.answer(pa.table(users), Clusters(np.eye(2), 0.0), 2)
    # At 2 only the first is known, also to the other review of that moment; at 3 the sum is (5, 9).
    told = [dict(zip(t["row"].to_pylist(), t["segment"].to_pylist(), strict=True)) for t in answered]
    assert told == [{0: None, 1: 1, 2: None}, {0: 0, 1: 0}]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("segments.min_clusters=9", "max_clusters must not be below min_clusters"),
        ("method=glove", "embeddings.method.*got 'glove'"),
        ("fit_share=1.0", "embeddings.fit_share.*less than 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        config(setting)
