"""Spark as an oracle: our stages and Spark's jobs agree in every row, and the comparison can fail."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pytest

from benchmarks.cases import aggregate, etl
from benchmarks.peers import etl as etl_peers
from benchmarks.peers.spark import alone, mllib, parity, side
from benchmarks.peers.spark.compare import compare
from benchmarks.peers.spark.jobs import JOBS
from benchmarks.peers.spark.ours import Ours, run_stages, settings
from benchmarks.peers.spark.session import missing, session
from tasks.core.sections import PROJECT
from tasks.core.storage.store import SnapshotStore
from tasks.sources import discover
from tasks.sources.synth import synthesize
from tests.support.hard_reviews import put_products, put_raw

DATA = PROJECT.parent / "shared" / "data"
ROWS = pl.DataFrame({"k": ["a", "b", "c"], "x": [1.0, None, 3.0], "t": ["q", "r", "s"]})


def test_equal_tables_do_not_differ_in_whatever_order() -> None:
    assert compare("j", ROWS, ROWS[[2, 0, 1]], ["k"]).differing == 0


@pytest.mark.parametrize(
    ("theirs", "first"),
    [
        (ROWS.with_columns(x=pl.Series([1.0, None, 3.0000000000000004])), "k 'c': x 3.0, Spark 3.0000000000000004"),
        (ROWS.with_columns(x=pl.Series([1.0, 0.0, 3.0])), "k 'b': x None, Spark 0.0"),
        (ROWS[:2], "k 'c': only ours has it"),
        (pl.concat([ROWS, ROWS[:1].with_columns(k=pl.lit("d"))]), "k 'd': only Spark has it"),
        (ROWS.with_columns(k=pl.col("k").replace("b", "B")), "k 'b': only ours has it"),
    ],
)
def test_a_last_bit_a_null_and_a_row_too_few_or_too_many_differ(theirs: pl.DataFrame, first: str) -> None:
    found = compare("j", ROWS, theirs, ["k"])
    assert found.differing == (2 if "B" in theirs["k"] else 1)
    assert found.first == first


def test_rows_in_another_order_differ_where_order_counts_but_not_for_one_that_is_missing() -> None:
    assert compare("j", ROWS, ROWS[[1, 0, 2]], ["k"], ordered=True).differing == 2
    assert compare("j", ROWS, ROWS[1:], ["k"], ordered=True).differing == 1


def test_a_key_that_repeats_is_refused() -> None:
    with pytest.raises(ValueError, match="j: k repeat in Spark's"):
        compare("j", ROWS, pl.concat([ROWS, ROWS]), ["k"])


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The one Spark session of these tests. Rows are few: to compile each query takes longer than to interpret it."""
    if reason := missing():
        pytest.skip(reason)
    interpreted = {"spark.sql.codegen.wholeStage": "false", "spark.sql.shuffle.partitions": "2"}
    with session(tmp_path_factory.mktemp("spark"), memory_mb=1024, more=interpreted) as started:
        yield started


@pytest.fixture(scope="module")
def hard(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Ours:
    """Our stages on the hard reviews, with the hard products as their catalogue."""
    store = SnapshotStore(tmp_path_factory.mktemp("hard"))
    config = settings("count_words.reducers=2", "features.buckets=2")
    return run_stages(put_raw(store), put_products(store), store, config)


def test_the_session_listens_on_loopback_alone(ray_session: None, spark: Any) -> None:
    """ray_session: so that it shares the one Spark session, in one of the processes of `make test`."""
    started = [p for p in psutil.Process().children(recursive=True) if p.name() == "java"]
    ports = [c for p in started for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert ports
    assert {port.laddr.ip.removeprefix("::ffff:") for port in ports} == {"127.0.0.1"}


@pytest.mark.parametrize("job", JOBS)
def test_no_row_of_hard_reviews_differs(spark: Any, hard: Ours, tmp_path: Path, job: str) -> None:
    compared = list(JOBS[job](spark, hard, tmp_path))
    assert compared
    assert [(c.job, c.differing, c.first) for c in compared if c.differing] == []
    assert all(c.rows > 3 for c in compared)


def test_the_hard_reviews_are_hard(hard: Ours) -> None:
    counts = hard.reviews.manifest.counts
    assert min(counts[kind] for kind in ("repeated_ids", "duplicates", "repeated_pairs")) > 5
    assert len(hard.reviews.files()) > 1
    table = pl.DataFrame(pl.from_arrow(hard.table.read()))
    for name in ("user_std", "item_last", "brand_mean", "category_mean", "item_helpful", "also_viewed_price"):
        assert table[name].drop_nulls().n_unique() > 3, name
        assert table[name].null_count() > 0, name


RELEASES: dict[str, tuple[str, str | None]] = {
    "joined-2014/test-reviews.txt": ("amazon-2014", "joined-2014/test-products.txt"),
    "beauty-2018": ("amazon-2018", None),
    "musical-2014": ("amazon-2014", None),
    "earphones-csv": ("docs/data.md", None),
}


@pytest.mark.real
@pytest.mark.nightly
@pytest.mark.parametrize("name", RELEASES)
def test_no_row_of_a_real_release_differs(
    ray_session: None, spark: Any, store: SnapshotStore, tmp_path: Path, name: str
) -> None:
    if not DATA.is_dir():
        pytest.skip(f"no real reviews: {DATA} is absent")
    dataset, products = RELEASES[name]
    if dataset == "docs/data.md":
        (text,) = re.findall(r"```yaml\n(description:.*?)```", (PROJECT / dataset).read_text(), flags=re.S)
        (profile := tmp_path / "documented.yaml").write_text(text)
        dataset = str(profile)
    config = settings()
    source = discover(str(DATA / name), dataset, config.ingest)
    metadata = discover(str(DATA / products), dataset, config.ingest_items, "items") if products else None
    ours = run_stages(source, metadata, store, config)
    compared = list(parity.spark_side(spark, ours, tmp_path))
    assert [(c.job, c.differing, c.first) for c in compared if c.differing] == []
    assert {c.job for c in compared} >= {"clean", "words", "reviewers", "features: user", "features: item"}


@pytest.mark.nightly
def test_the_peers_of_the_bench_do_what_their_cases_check(ray_session: None, spark: Any, tmp_path: Path) -> None:
    synthesize(400, 7, tmp_path / "raw")
    outs = {name: tmp_path / name for name in ("polars", "spark")}
    for name, peer in {"polars": etl_peers.polars, "spark": partial(alone.PEERS["etl"], spark)}.items():
        outs[name].mkdir()
        peer(tmp_path / "raw", outs[name])
    tables = [outs["polars"] / f"{table}.parquet" for table in etl.TABLES]
    reviews, reviewers = (side.written(outs["spark"], table) for table in etl.TABLES)
    job = etl.Job(input=tmp_path / "raw", workers=2, scratch=tmp_path, settings=settings())
    said = etl.check(job, etl.Output([tables[0]], [tables[1]]), {"spark": etl.Output(reviews, reviewers)})
    assert "row for row" in said

    aggregate.write_ratings(3000, tmp_path / "ratings.csv")
    expected = aggregate.polars_query(tmp_path / "ratings.csv", "streaming")
    assert alone.PEERS["aggregate"](spark, tmp_path / "ratings.csv", tmp_path) == expected

    rng = np.random.default_rng(1)
    x = rng.normal(size=300)
    rows = {
        "label": np.clip(np.round(3 + x), 1, 5),
        "slice": np.arange(300) // 120,
        "x": x,
        "noise": rng.normal(size=300),
    }
    pl.DataFrame(rows).with_columns(x=pl.when(pl.col("x") < 2).then("x")).write_parquet(tmp_path / "table.parquet")
    found = mllib.cross_validated(spark.read.parquet(str(tmp_path / "table.parquet")), trees=3)
    assert found["rmse"] < 0.8
    assert len(found["tried"]) == 4
