"""The language model on a real Ray session, validated as in a run: what dictionaries come to, and what it knows."""

from __future__ import annotations

import datetime as dt
import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from tasks.core.sections import PROJECT
from tasks.core.snapshot_files import FileSink
from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.domain.schemas import TOKENS
from tasks.engines.expectations import Validators
from tasks.parallel import mapreduce, time_borders
from tasks.sources import discover
from tasks.stages.clean.stage import clean
from tasks.stages.ingest.stage import ingest
from tasks.stages.language_model.counting import counting
from tasks.stages.language_model.stage import language_model
from tasks.stages.tokenize import tokenize
from tests.support.ngram_oracle import Review, scores
from tests.support.stage_runs import made, put, put_reviews, settings, validated

pytestmark = pytest.mark.usefixtures("ray_session")
START = dt.datetime(2015, 1, 1, tzinfo=dt.UTC)
Rows = list[dict[str, Any]]


def some_rows(count: int = 300, seed: int = 3) -> Rows:
    """Reviews in no order of time, whose tokens below 5 say their stars; some have no tokens."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        stars = rng.randint(1, 5)
        tokens = [rng.choice([stars - 1, *range(5, 30)]) for _ in range(rng.randrange(12))]
        when = START + dt.timedelta(hours=rng.randrange(2000))
        rows.append({"rating": float(stars), "timestamp": when, "tokens": tokens})
    return rows


def put_both(store: SnapshotStore, *parts: Rows, vocabulary: int = 30) -> tuple[Snapshot, Snapshot]:
    """(reviews, their tokens), one file per part."""
    reviews = put_reviews(store, *([{k: v for k, v in r.items() if k != "tokens"} for r in part] for part in parts))
    tables = []
    for file, part in zip(reviews.files(), parts, strict=True):
        ids = pl.read_parquet(file, hive_partitioning=False)["review_id"].to_arrow()
        tokens = pa.array([r["tokens"] for r in part], pa.list_(pa.int32()))
        columns = {"review_id": ids, "input_ids": tokens, "n_tokens": [len(r["tokens"]) for r in part]}
        tables.append(pa.table(columns).cast(TOKENS))
    return reviews, put(store, "tokenize", {"": tables}, facts={"vocabulary": vocabulary})


def test_scores_and_totals_of_the_stage_are_those_of_plain_dictionaries(
    store: SnapshotStore, validators: Validators
) -> None:
    rows = some_rows()
    config = settings("language_model.periods=4").language_model
    reviews, tokens = put_both(store, rows[:120], rows[120:121], rows[121:])
    done = validated(store, language_model, [reviews, tokens], config, validators)
    cuts = time_borders.borders(reviews.files(), [k / 4 for k in range(1, 4)])
    assert done.facts["borders"] == cuts

    ms = [int(r["timestamp"].timestamp() * 1000) for r in rows]
    period = np.searchsorted(cuts, ms, side="right").tolist()
    told = [Review(p, r["rating"], tuple(r["tokens"])) for p, r in zip(period, rows, strict=True)]
    table = done.read()
    assert table["review_id"].to_pylist() == [f"R{i}" for i in range(len(rows))]
    for i, column in enumerate(["lm_surprise", "lm_high"]):
        expected = [pair[i] for pair in scores(told, config)]
        found = table[column].to_pylist()
        assert [v is None for v in found] == [v is None for v in expected], column
        some = [v for v in expected if v is not None]
        assert len(some) > 150
        np.testing.assert_allclose([v for v in found if v is not None], some, rtol=1e-4, atol=1e-6, err_msg=column)

    by_period = [sum(len(r.tokens) for r in told if r.period == k) for k in range(4)]
    high = [sum(len(r.tokens) for r in told if r.period == k and r.stars >= 4) for k in range(4)]
    assert (done.facts["period_tokens"], done.facts["period_tokens_high"]) == (by_period, high)
    counts = done.manifest.counts
    assert counts["tokens"] == sum(by_period)
    assert counts["unigrams"] + counts["bigrams"] + counts["trigrams"] == len(
        set(done.read("ngrams")["gram"].to_pylist())
    )
    assert len(done.files("ngrams")) == config.partitions


def test_neither_files_nor_partitions_change_a_score(store: SnapshotStore) -> None:
    rows = some_rows(120)
    whole = made(store, language_model, put_both(store, rows), settings().language_model).snapshot
    other = SnapshotStore(Path(store.root) / "other")
    cut = put_both(other, rows[:50], rows[50:])
    again = made(other, language_model, cut, settings("language_model.partitions=3").language_model).snapshot
    assert again.read().equals(whole.read())
    order = [("gram", "ascending"), ("period", "ascending")]
    assert again.read("ngrams").sort_by(order).equals(whole.read("ngrams").sort_by(order))


def test_files_without_reviews_are_nothing_special(store: SnapshotStore, validators: Validators) -> None:
    config, rows = settings().language_model, some_rows(60)
    done = validated(store, language_model, put_both(store, rows, []), config, validators)
    assert done.rows() == 60
    other = SnapshotStore(Path(store.root) / "other")
    assert validated(other, language_model, put_both(other, []), config, validators).rows() == 0


def test_counts_that_outgrow_memory_are_the_same_files(store: SnapshotStore, tmp_path: Path) -> None:
    config = settings("language_model.periods=3").language_model
    reviews, tokens = put_both(store, *(some_rows(150, seed) for seed in range(4)))
    pairs = list(zip(reviews.files(), tokens.files(), strict=True))
    cuts = time_borders.borders(reviews.files(), [1 / 3, 2 / 3])

    def counted(name: str, spill_bytes: int) -> list[tuple[str, int | None, list[int]]]:
        job = counting(FileSink(str(tmp_path / name)), config, cuts)
        parts = mapreduce.run(job, pairs, partitions=2, mappers=2, reducers=2, spill_bytes=spill_bytes)
        return [(part.entry.sha256, part.entry.rows, part.kept.tolist()) for part in parts]

    in_memory = counted("in-memory", 1 << 28)
    assert counted("spilled", 1000) == in_memory
    assert min(rows or 0 for _, rows, _ in in_memory) > 500


def test_switched_off_it_is_a_valid_empty_answer(store: SnapshotStore, validators: Validators) -> None:
    config = settings("language_model.enabled=false").language_model
    done = validated(store, language_model, put_both(store, some_rows(20), vocabulary=1 << 30), config, validators)
    assert done.rows() == done.rows("ngrams") == 0
    assert done.read().schema.names == ["review_id", "lm_surprise", "lm_high"]


@pytest.mark.nightly
@pytest.mark.real
def test_wording_tells_later_real_ratings(store: SnapshotStore) -> None:
    folder = PROJECT.parent / "shared" / "data" / "us-reviews-parquet"
    if not folder.is_dir():
        pytest.skip(f"no real reviews: {folder} is absent")
    config = settings()
    raw = made(store, ingest, [discover(str(folder), "amazon-us", config.ingest)], config.ingest).snapshot
    reviews = made(store, clean, [raw], config.clean).snapshot
    tokens = made(store, tokenize, [reviews], config.tokenize).snapshot
    done = made(store, language_model, [reviews, tokens], config.language_model).snapshot
    table = pl.DataFrame(pl.from_arrow(done.read())).with_columns(
        rating=pl.Series(reviews.read(columns=["rating"])["rating"]),
        period=np.searchsorted(
            done.facts["borders"], np.concatenate([time_borders.timestamps_ms(f) for f in reviews.files()]), "right"
        ),
    )
    later = table.filter(pl.col("period") > 0).drop_nulls()
    assert len(later) > 0.8 * len(table)
    assert later.select(pl.corr("lm_high", "rating")).item() > 0.4  # 0.48 when it was made
    assert (later.group_by("period").agg(r=pl.corr("lm_high", "rating"))["r"] > 0.3).all()
    assert 4 < later["lm_surprise"].mean() < 10  # bits; GPT-2's vocabulary drawn at random has 15.6
