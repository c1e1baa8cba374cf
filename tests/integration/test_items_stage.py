"""The catalogue through the stage `items` on a real Ray session; a real release, from its lines on."""

from __future__ import annotations

import ast
import random
from itertools import pairwise
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from tasks.core.sections import PROJECT
from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.domain.schemas import ITEMS
from tasks.engines import expectations
from tasks.sources.item_records import ItemColumns, parse_literal, to_items
from tasks.stages.items import COLUMNS, items
from tests.support.stage_runs import made, put, settings

pytestmark = pytest.mark.usefixtures("ray_session")
PRODUCTS = PROJECT.parent / "shared" / "data" / "joined-2014" / "test-products.txt"


def some_items(n: int) -> list[dict[str, Any]]:
    rng = random.Random(5)
    return [
        {
            "item_id": f"B{rng.randrange(n)}",
            "title": rng.choice([None, "Lamp"]),
            "price": rng.choice([None, 0.0, rng.uniform(0, 90)]),
            "category": "Home",
            "sales_rank": i + 1,
            "also_viewed": [f"B{rng.randrange(2 * n)}" for _ in range(rng.randrange(9))] if i % 7 else None,
        }
        for i in range(n)
    ]


def catalogue(store: SnapshotStore, rows: list[dict[str, Any]], *cuts: int) -> Snapshot:
    edges = [0, *cuts, len(rows)]
    parts = [pa.Table.from_pylist(rows[a:b], schema=ITEMS) for a, b in pairwise(edges)]
    return put(store, "ingest-items", {"": parts})


def by_hand(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """First of each id; explode, join, aggregate, as one would in pandas."""
    once = pd.DataFrame(rows).drop_duplicates("item_id").reset_index(drop=True)
    asked = once[["item_id", "also_viewed"]].explode("also_viewed")
    joined = asked.merge(
        once[["item_id", "price"]].add_prefix("found_"), left_on="also_viewed", right_on="found_item_id"
    )
    viewed = joined.groupby("item_id")["found_price"].agg(["mean", "count"])
    return once.join(viewed, on="item_id").fillna({"count": 0})


def same(table: pl.DataFrame, expected: pd.DataFrame) -> None:
    assert table["item_id"].to_list() == expected["item_id"].to_list()
    assert table["count_also_viewed"].to_list() == expected["count"].astype(int).to_list()
    found = pd.Series(table["mean_price_also_viewed"].to_list(), dtype="float64")
    pd.testing.assert_series_equal(found, expected["mean"], check_names=False, rtol=1e-12)


def test_the_stage_gives_what_pandas_gives_and_the_same_bits_however_the_catalogue_is_cut(store: SnapshotStore) -> None:
    rows = some_items(400)
    config = settings("items.buckets=3").items
    cut = made(store, items, [catalogue(store, rows, 0, 150, 151, 330)], config).snapshot
    table = pl.DataFrame(pl.from_arrow(cut.read()))
    expected = by_hand(rows)
    same(table, expected)
    assert cut.read().schema.equals(COLUMNS)
    assert 100 < table["count_also_viewed"].gt(0).sum() < len(table)
    assert cut.manifest.counts == {"rows_in": 400, "repeated": 400 - len(expected)}
    assert cut.facts["known_prices"] == expected["price"].count()
    assert cut.facts["mean_price"] == pytest.approx(expected["price"].mean(), rel=1e-12)
    assert cut.facts["median_price"] == expected["price"].median()
    assert set(table["title"]) == {"unknown", "Lamp"}

    other = SnapshotStore(store.root.parent / "other")
    whole = made(other, items, [catalogue(other, rows)], settings("items.buckets=1").items).snapshot
    assert whole.read().equals(cut.read().combine_chunks())
    assert (whole.facts, whole.manifest.counts) == (cut.facts, cut.manifest.counts)


def test_its_suites_hold_for_the_stage_and_not_for_wrong_items(
    store: SnapshotStore, validators: expectations.Validators
) -> None:
    given = catalogue(store, some_items(80), 30)
    done = made(store, items, [given], settings().items).snapshot
    wrong = store.open_attempt("wrong", "wrong")
    once = pl.DataFrame(pl.from_arrow(done.read())).with_columns(count_also_viewed=pl.col("count_also_viewed") - 99)
    wrong.write_table("part-00000.parquet", pl.concat([once, once[3:4]]).to_arrow(), COLUMNS)
    catalogued = validators.validate(expectations.load_suite("ingest-items"), {"": given.files()})
    held = validators.validate(expectations.load_suite("items"), {"": done.files()})
    broken = validators.validate(expectations.load_suite("items"), {"": wrong.files()})
    assert catalogued.failures() == held.failures() == []
    assert sorted(failure["type"] for failure in broken.failures()) == [
        "expect_column_values_to_be_between",
        "expect_column_values_to_be_unique",
    ]


@pytest.mark.real
def test_the_products_of_a_real_release_come_out_as_pandas_would_have_them(store: SnapshotStore) -> None:
    if not PRODUCTS.is_file():
        pytest.skip(f"no real products: {PRODUCTS} is absent")
    lines = PRODUCTS.read_bytes().splitlines()
    mapping = ItemColumns(
        item_id="asin",
        title="title",
        brand="brand",
        price="price",
        category="categories[0][0]",
        sales_rank="salesRank",
        also_viewed="related.also_viewed",
    )
    table, rejected = to_items([parse_literal(line) for line in lines], mapping)
    assert (table.num_rows, rejected) == (595, [])
    raw = [ast.literal_eval(line.decode()) for line in lines]
    assert table["price"].to_pylist() == [r.get("price") for r in raw]
    assert table["sales_rank"].to_pylist() == [next(iter(r.get("salesRank", {}).values()), None) for r in raw]

    # No product of this sample names another one of it, so that some are made to.
    ids = [r["asin"] for r in raw]
    named = [
        {**row, "also_viewed": [*(row["also_viewed"] or []), *ids[i % 50 : i % 50 + i % 5]]}
        for i, row in enumerate(table.to_pylist())
    ]
    done = made(store, items, [catalogue(store, named, 200)], settings().items).snapshot
    found = pl.DataFrame(pl.from_arrow(done.read()))
    same(found, by_hand(named))
    assert done.manifest.counts == {"rows_in": 595, "repeated": 0}
    assert done.facts["known_prices"] == 414
    assert (found["title"] == "unknown").sum() == sum(not r.get("title") for r in raw)
    assert found["count_also_viewed"].max() > 0
