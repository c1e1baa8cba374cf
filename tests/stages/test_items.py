"""The stage `items` without Ray, against a plain explode and join."""

from __future__ import annotations

import math
import random
import statistics
from functools import reduce
from itertools import pairwise
from operator import add
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.domain.schemas import ITEMS
from tasks.parallel.exchange import exchange_in_process
from tasks.stages import items

SCHEMA = {"item_id": pl.String, "title": pl.String, "price": pl.Float64, "also_viewed": pl.List(pl.String)}
IDS = st.sampled_from("abcdefg")
ITEM = st.fixed_dictionaries(
    {
        "item_id": IDS,
        "title": st.sampled_from([None, "", " ", "Lamp"]),
        "price": st.none() | st.just(0.0) | st.floats(0, 1e6).map(abs),
        "also_viewed": st.none() | st.lists(IDS | st.sampled_from(["x", "y", None]), max_size=9),
    }
)


def completed(rows: list[dict[str, Any]], cuts: list[int], buckets: int) -> tuple[pl.DataFrame, items.KnownPrices, int]:
    """What the stage makes of these items cut into blocks, by its own functions, without Ray; and how many repeat."""
    edges = [0, *sorted(min(c, len(rows)) for c in cuts), len(rows)]
    blocks = [pl.DataFrame(pl.from_arrow(pa.Table.from_pylist(rows[a:b], schema=ITEMS))) for a, b in pairwise(edges)]
    answers = exchange_in_process(blocks, items.split_items, items.answer_prices, buckets)
    known = items.summarise(*(items.own_prices(b["price"], *a) for b, a in zip(blocks, answers, strict=True)))
    parts = [
        items.complete_items(b.select(items.SCALARS).to_arrow(), known, *a)
        for b, a in zip(blocks, answers, strict=True)
    ]
    repeated = sum(items.count_repeated(*a) for a in answers)
    return pl.DataFrame(pl.from_arrow(pa.concat_tables(parts))), known, repeated


def by_hand(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Explode, join, aggregate."""
    once = pl.DataFrame(rows, schema=SCHEMA).unique("item_id", keep="first", maintain_order=True)
    prices = once.select(pl.col("item_id").alias("also_viewed"), found="price")
    asked = once.explode("also_viewed", empty_as_null=True).join(prices, on="also_viewed", how="left")
    viewed = asked.group_by("item_id").agg(mean=pl.mean("found"), count=pl.count("found"))
    return once.join(viewed, on="item_id", how="left", maintain_order="left")


@given(st.lists(ITEM, min_size=1, max_size=14), st.lists(st.integers(0, 14), max_size=4), st.integers(1, 5), st.data())
def test_the_also_viewed_columns_are_those_of_explode_and_join_however_the_items_are_cut(
    rows: list[dict[str, Any]], cuts: list[int], buckets: int, data: st.DataObject
) -> None:
    table, known, repeated = completed(rows, cuts, buckets)
    expected = by_hand(rows)
    assert table["item_id"].to_list() == expected["item_id"].to_list()
    assert repeated == len(rows) - len(table)
    assert table["count_also_viewed"].to_list() == expected["count"].to_list()
    assert table["mean_price_also_viewed"].is_null().equals(expected["count"] == 0)
    means = table["mean_price_also_viewed"].fill_null(-1).to_list()
    assert means == pytest.approx(expected["mean"].fill_null(-1).to_list(), rel=1e-12)
    assert table["price"].to_list() == expected["price"].to_list()
    assert table["title"].to_list() == ["Lamp" if t == "Lamp" else "unknown" for t in expected["title"]]

    prices = [p for p in expected["price"].to_list() if p is not None]
    assert known.count == len(prices)
    assert known.mean == (math.fsum(prices) / len(prices) if prices else None)
    assert known.median == (statistics.median(prices) if prices else None)
    for name, filled in (("price_mean_imputed", known.mean), ("price_median_imputed", known.median)):
        assert table[name].to_list() == [filled if p is None else p for p in expected["price"]]

    # To the last bit, in whatever parts and buckets.
    again = completed(rows, data.draw(st.lists(st.integers(0, 14), max_size=4)), data.draw(st.integers(1, 5)))
    assert again[0].equals(table)
    assert again[1:] == (known, repeated)


def test_a_row_by_hand_twice_itself_free_unknown_and_dangling() -> None:
    rows: list[dict[str, Any]] = [
        {"item_id": "a", "price": 4.0, "also_viewed": ["b", "b", "a", "free", "dear", "gone", None]},
        {"item_id": "b", "price": 1.0, "also_viewed": ["dear", "gone"]},
        {"item_id": "free", "price": 0.0, "also_viewed": []},
        {"item_id": "dear", "price": None, "also_viewed": None},
        {"item_id": "b", "price": 100.0, "also_viewed": ["a"]},
    ]
    table, known, repeated = completed(rows, [2], 3)
    assert table["count_also_viewed"].to_list() == [4, 0, 0, 0]
    assert table["mean_price_also_viewed"].to_list() == [1.5, None, None, None]
    assert (known, repeated) == (items.KnownPrices(3, 5 / 3, 1.0), 1)
    assert table["price_median_imputed"].to_list() == [4, 1, 0, 1]


def test_where_no_price_is_known_nothing_is_imputed() -> None:
    table, known, _ = completed([{"item_id": "a", "also_viewed": ["a"]}], [], 2)
    assert known == items.KnownPrices(0, None, None)
    assert table.select("price_mean_imputed", "price_median_imputed", "mean_price_also_viewed").row(0) == (None,) * 3


@pytest.mark.parametrize("buckets", range(1, 6))
def test_sums_are_the_same_to_the_last_bit_whatever_comes_from_where(buckets: int) -> None:
    rng = random.Random(29)
    prices = [rng.uniform(0, 100) for _ in range(40)]
    ids = [f"i{i}" for i in range(40)]
    rows = [{"item_id": i, "price": p, "also_viewed": ids} for i, p in zip(ids, prices, strict=True)]
    table, known, _ = completed(rows, [7, 25], buckets)
    ascending = reduce(add, sorted(prices)) / 40
    assert len({ascending, reduce(add, prices) / 40, math.fsum(prices) / 40}) == 3
    assert table["mean_price_also_viewed"].to_list() == [ascending] * 40
    assert known.mean == math.fsum(prices) / 40
