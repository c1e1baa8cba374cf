"""The embeddings on a real Ray session, validated as in a run; what they come to is in the unit tests."""

from __future__ import annotations

import datetime as dt
import io
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.domain.schemas import TOKENS
from tasks.engines.expectations import Validators
from tasks.parallel.comm import run_threads
from tasks.stages.embeddings import review_vectors
from tasks.stages.embeddings.stage import embeddings
from tests.support.stage_runs import put, put_reviews, settings, validated

pytestmark = pytest.mark.usefixtures("ray_session")
START = dt.datetime(2015, 1, 1, tzinfo=dt.UTC)
SMALL = (
    "embeddings.enabled=true",
    "embeddings.dimensions=3",
    "embeddings.svd.buckets=1024",
    "embeddings.word2vec.min_count=1",
    "embeddings.segments.max_clusters=3",
)


def inputs(store: SnapshotStore, *sizes: int) -> list[Snapshot]:
    """Reviews, a day apart, of users who write with tokens 0..9 or 10..19, and their tokens; files of these sizes."""
    rng = np.random.default_rng(0)
    parts, tables, number = [], [], 0
    for size in sizes:
        users = rng.integers(0, 20, size)
        days = [dt.timedelta(days=number + i) for i in range(size)]
        parts.append([{"user_id": f"U{u}", "timestamp": START + day} for u, day in zip(users, days, strict=True)])
        tokens = [(rng.integers(0, 10, 6) + 10 * (u % 2)).tolist() for u in users]
        ids = [f"R{number + i}" for i in range(size)]
        columns = {"review_id": ids, "input_ids": tokens, "n_tokens": [6] * size}
        tables.append(pa.Table.from_pydict(columns, schema=TOKENS))
        number += size
    return [put_reviews(store, *parts), put(store, "tokenize", {"": tables}, facts={"vocabulary": 40})]


def test_actors_come_to_what_ranks_of_one_process_come_to(store: SnapshotStore, validators: Validators) -> None:
    config = settings(*SMALL).embeddings
    given = inputs(store, 50, 0, 70)
    done = validated(store, embeddings, given, config, validators)
    table = pl.DataFrame(pl.from_arrow(done.read()))
    assert table["review_id"].to_list() == [f"R{i}" for i in range(120)]
    assert table["emb_0"].is_not_null().all()
    assert table["segment"].drop_nulls().n_unique() == done.facts["segments"]["clusters"] == 2
    assert [entry.rows for entry in done.entries()] == [50, 0, 70]

    files = list(zip(*(snapshot.files() for snapshot in given), strict=True))
    fit = partial(review_vectors.fit_rank, border=done.facts["border"], vocabulary=40, config=config)
    model, about = run_threads(fit, [(files[0::2],), (files[1::2],)])[0]
    assert about["reviews"] == 60  # a half
    with np.load(io.BytesIO(done.path("vectors.npz").read_bytes())) as held:
        np.testing.assert_allclose(held["basis"], model.basis, atol=1e-5)
        assert held["centres"].shape == (2, 3)
    assert done.facts["fitted"]["singular_values"] == pytest.approx(about["singular_values"], rel=1e-5)


@pytest.mark.slow
def test_the_same_in_every_run_with_segments_or_without_with_reviews_or_without(
    tmp_path: Path, validators: Validators
) -> None:
    stores = [SnapshotStore(tmp_path / name) for name in "abcd"]
    config = settings(*SMALL, "embeddings.method=cbow").embeddings
    one, again = (validated(s, embeddings, inputs(s, 60), config, validators) for s in stores[:2])
    assert one.digest == again.digest
    alone = settings(*SMALL, "embeddings.method=cbow", "embeddings.segments.enabled=false").embeddings
    table = validated(stores[2], embeddings, inputs(stores[2], 60), alone, validators).read()
    assert table["segment"].null_count == 60
    assert table.drop_columns("segment").equals(one.read().drop_columns("segment"))
    assert validated(stores[3], embeddings, inputs(stores[3], 0), config, validators).rows() == 0
