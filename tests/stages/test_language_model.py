"""The language model in one process: what dictionaries come to, however it is cut up, and blind to what comes later."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import RunError, SettingsError
from tasks.core.snapshot_files import FileSink
from tasks.parallel.mapreduce import run_in_process
from tasks.stages.language_model import chunks, counting, ngrams, scoring
from tasks.stages.language_model.settings import LanguageModelConfig
from tasks.stages.language_model.stage import check_vocabulary
from tests.support.ngram_oracle import Review, counts, scores

PERIODS = 4
CUTS = (100, 200, 300)
CONFIG = LanguageModelConfig(
    enabled=True, order=3, periods=PERIODS, max_reviews=1000, min_count=2, backoff=0.4, partitions=2, spill_mb=1
)  # fmt: skip
Scores = list[tuple[float | None, float | None]]


def unpacked(gram: int) -> tuple[int, ...]:
    tokens = [(gram >> shift & ngrams.ID_LIMIT) - 1 for shift in (2 * ngrams.BITS, ngrams.BITS, 0)]
    return tuple(token for token in tokens if token >= 0)


def write(folder: Path, reviews: Sequence[Review], files: int) -> list[chunks.FilePair]:
    sink, pairs = FileSink(str(folder)), []
    for i, rows in enumerate(np.array_split(np.arange(len(reviews)), files)):
        some = [reviews[j] for j in rows]
        times = pa.array([100 * r.period for r in some], pa.int64()).cast(pa.timestamp("ms", tz="UTC"))
        stars = pa.array([r.stars for r in some], pa.float32())
        ids = pa.array([f"R{j}" for j in rows], pa.string())
        sink.write_table(f"r{i}.parquet", pa.table({"review_id": ids, "timestamp": times, "rating": stars}))
        tokens = pa.array([r.tokens for r in some], pa.list_(pa.int32()))
        sink.write_table(f"t{i}.parquet", pa.table({"input_ids": tokens}))
        pairs.append((folder / f"r{i}.parquet", folder / f"t{i}.parquet"))
    return pairs


def learned(reviews: Sequence[Review], config: LanguageModelConfig = CONFIG, files: int = 1) -> tuple[Any, Scores]:
    """The counts as the oracle gives them, and the scores, by the stage's own functions."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        sink, pairs = FileSink(name), write(folder, reviews, files)
        job = counting.counting(sink, config, CUTS)
        parts = run_in_process(job, pairs, partitions=config.partitions)
        model = scoring.Model.of(parts, CUTS, config)
        paths = [folder / part.entry.name for part in parts]
        known = scoring.read_known(paths, config.min_count)
        written = [scoring.score_file(sink, i, pair, model, known) for i, pair in enumerate(pairs)]
        table = pl.concat([pl.read_parquet(folder / entry.name) for entry in written])
        rows = [row for path in paths for row in pl.read_parquet(path).rows()]
        for path in paths:
            keys = pl.read_parquet(path).select("gram", "period").rows()
            assert keys == sorted(keys)
    assert table["review_id"].to_list() == [f"R{i}" for i in range(len(reviews))]
    assert sum(part.kept.sum() for part in parts) == len({row[0] for row in rows})
    found = {(unpacked(gram), period): (times, high) for gram, period, times, high in rows}
    return found, list(zip(table["lm_surprise"], table["lm_high"], strict=True))


def assert_same(found: Scores, expected: Scores) -> None:
    for i, (pair, wanted) in enumerate(zip(found, expected, strict=True)):
        for name, value, right in zip(("surprise", "high"), pair, wanted, strict=True):
            assert (value is None) == (right is None), (i, name, value, right)
            if right is not None:
                assert value == pytest.approx(right, rel=1e-5, abs=1e-6), (i, name)


some_reviews = st.lists(
    st.builds(
        Review,
        period=st.integers(0, PERIODS - 1),
        stars=st.sampled_from([1.0, 3.5, 4.0, 5.0]),
        tokens=st.lists(st.sampled_from([0, 1, 2, 50_256, ngrams.ID_LIMIT - 1]), max_size=9).map(tuple),
    ),
    min_size=1,
    max_size=14,
)


@given(
    reviews=some_reviews,
    order=st.integers(1, 3),
    min_count=st.integers(1, 3),
    partitions=st.integers(1, 3),
    files=st.integers(1, 3),
    chunk=st.sampled_from([1, 2, 7, 1000]),
    batch=st.sampled_from([1, 3, 1000]),
)
def test_counts_and_scores_are_those_of_plain_dictionaries(
    reviews: list[Review], order: int, min_count: int, partitions: int, files: int, chunk: int, batch: int
) -> None:
    config = CONFIG.model_copy(update={"order": order, "min_count": min_count, "partitions": partitions})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_TOKENS", chunk)
        patch.setattr(chunks, "READ_ROWS", batch)
        found, scored = learned(reviews, config, files)
    assert found == counts(reviews, config)
    assert_same(scored, scores(reviews, config))


@given(reviews=some_reviews, change=some_reviews, first=st.integers(0, PERIODS - 1))
def test_no_score_changes_when_other_reviews_of_its_period_or_later_ones_do(
    reviews: list[Review], change: list[Review], first: int
) -> None:
    """Reviews from period `first` on say and rate something else, but for every second of that period."""
    changed = []
    for i, r in enumerate(reviews):
        new = change[i % len(change)]
        stays = r.period < first or (r.period == first and i % 2)
        changed.append(r if stays else replace(r, stars=new.stars, tokens=new.tokens))
    late = [replace(r, period=max(r.period, first)) for r in change]
    before, after = learned(reviews)[1], learned([*changed, *late])[1]
    untouched = [i for i, (old, new) in enumerate(zip(reviews, changed, strict=True)) if old is new]
    same = [i for i in untouched if reviews[i].period <= first]
    assert [after[i] for i in same] == [before[i] for i in same]


def test_a_bigram_that_becomes_frequent_later_is_not_known_before() -> None:
    once, twice = Review(0, 5, (1, 2)), Review(3, 5, (1, 2))
    reviews = [once, Review(0, 1, (2, 1)), Review(1, 5, (1, 2))]
    alone, followed = learned(reviews)[1], learned([*reviews, twice])[1]
    assert followed[2] == alone[2]
    # Token 2 after token 1: half of all tokens so far, and a factor for the bigram, met once only.
    assert followed[2][0] == pytest.approx((1 - math.log2(0.4 * 0.5)) / 2)


def test_scores_by_hand() -> None:
    past = [Review(0, 5, (7, 8, 9)), Review(0, 5, (7, 8)), Review(0, 1, (9,))]
    told = [(7, 8), (8, 7), (7, 8, 9), (5,), (7, 5)]
    now = [Review(1, 3, tokens) for tokens in told]
    scored = learned([*past, *now], CONFIG.model_copy(update={"min_count": 1}))[1]
    third, unknown = 2 / 6, 0.4 / 7
    expected = [
        [third, 1.0],  # 8 always comes after 7
        [third, 0.4 * third],
        [third, 1.0, 1 / 2],  # 9 once of two times after 7 8
        [unknown],
        [third, 0.4 * unknown],
    ]
    for (surprise, _), likely in zip(scored[3:], expected, strict=True):
        assert surprise == pytest.approx(-sum(math.log2(p) for p in likely) / len(likely), rel=1e-6)
    assert scored[3][1] > scored[4][1]  # only approving reviews say 7 8
    assert scored[:3] == [(None, None)] * 3


def test_a_review_of_the_very_border_belongs_to_the_later_period() -> None:
    with TemporaryDirectory() as folder:
        (pair,) = write(Path(folder), [Review(k, 5, (1,)) for k in range(PERIODS)], 1)
        (chunk,) = chunks.read_chunks(pair, np.array(CUTS))
        earlier = [chunks.read_chunks(pair, np.array(CUTS) + 1)]
        assert chunk.period.tolist() == [0, 1, 2, 3]
        assert [c.period.tolist() for chunks in earlier for c in chunks] == [[0, 0, 1, 2]]


@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=20), every=st.integers(1, 7), batch=st.integers(1, 9))
def test_a_sample_has_every_so_many_reviews_of_a_file_however_it_is_read(
    lengths: list[int], every: int, batch: int
) -> None:
    reviews = [Review(i % PERIODS, 5 if i % 3 else 1, (i,) * length) for i, length in enumerate(lengths)]
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "READ_ROWS", batch)
        (pair,) = write(Path(folder), reviews, 1)
        sample = list(chunks.read_chunks(pair, np.array(CUTS), every))
    assert [n for c in sample for n in c.lengths.tolist()] == lengths[::every]
    assert [t for c in sample for t in c.tokens.tolist()] == [t for r in reviews[::every] for t in r.tokens]
    assert [p for c in sample for p in c.period.tolist()] == [r.period for r in reviews[::every]]
    assert [h for c in sample for h in c.high.tolist()] == [int(r.stars >= 4) for r in reviews[::every]]


@pytest.mark.parametrize(
    ("reviews", "known"),
    [
        pytest.param([Review(0, 5, (1, 2)), Review(0, 1, (1,)), Review(1, 5, ())], (False, False), id="no-tokens"),
        pytest.param([Review(0, 5, ()), Review(0, 1, ()), Review(1, 5, (1,))], (False, False), id="nothing-said-yet"),
        pytest.param([Review(1, 5, (1,)), Review(2, 1, (1,))], (True, False), id="an-empty-period-zero"),
        pytest.param([Review(0, 5, (1, 2)), Review(0, 4, (1,)), Review(1, 5, (1,))], (True, False), id="all-high"),
        pytest.param([Review(0, 2, (1, 2)), Review(0, 1, (1,)), Review(1, 5, (1,))], (True, False), id="none-high"),
        pytest.param([Review(0, 2, (1, 2)), Review(0, 5, (1,)), Review(3, 5, (9,))], (True, True), id="empty-between"),
    ],
)
def test_a_score_is_null_where_there_is_nothing_to_compare_with(
    reviews: list[Review], known: tuple[bool, bool]
) -> None:
    *earlier, (surprise, high) = learned(reviews)[1]
    assert (surprise is not None, high is not None) == known
    assert all(pair == (None, None) for pair in earlier)
    assert all(value is None or math.isfinite(value) for value in (surprise, high))


def test_reviews_without_any_token_and_a_file_without_any_review_are_nothing_special() -> None:
    found, scored = learned([Review(k, 5, ()) for k in range(PERIODS)], files=PERIODS + 1)
    assert found == {}
    assert scored == [(None, None)] * PERIODS


def test_an_order_of_one_counts_tokens_alone() -> None:
    found, _ = learned([Review(0, 5, (1, 1, 2))], CONFIG.model_copy(update={"order": 1}))
    assert found == {((1,), 0): (2, 2), ((2,), 0): (1, 1)}


def test_shorter_grams_sort_first_and_the_longest_ids_fit() -> None:
    top = ngrams.ID_LIMIT - 1
    grams = ngrams.packed(np.array([top, top, top, 0]), np.array([3, 1]), 3)
    assert grams.max() < 1 << 63
    assert [unpacked(g) for g in grams[:, 2].tolist()] == [(top,), (top, top), (top, top, top)]
    assert grams[:, 3].tolist() == [1, 0, 0]  # no gram spans two reviews
    assert grams[0].max() < grams[1][grams[1] > 0].min() < grams[2][grams[2] > 0].min()


@pytest.mark.parametrize(("size", "fits"), [(50_257, True), (524_286, True), (524_287, False)])
def test_a_vocabulary_that_does_not_fit_is_refused_with_a_way_out(size: int, fits: bool) -> None:
    check: Callable[[int], None] = check_vocabulary
    if fits:
        check(size)
    else:
        with pytest.raises(SettingsError, match=r"524,287 tokens.*(?s:.)*language_model\.enabled=false"):
            check(size)


def test_an_id_beyond_the_vocabulary_is_an_error_and_not_another_gram() -> None:
    with pytest.raises(RunError, match="524,287"):
        ngrams.packed(np.array([1, ngrams.ID_LIMIT]), np.array([2]), 2)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    (one,) = write(tmp_path, [Review(0, 5, (1,))], 1)
    (tmp_path / "other").mkdir()
    (two,) = write(tmp_path / "other", [Review(0, 5, (1,))] * 2, 1)
    with pytest.raises(RunError, match="2 rows of tokens for 1 reviews"):
        list(chunks.read_chunks((one[0], two[1]), np.array(CUTS)))
