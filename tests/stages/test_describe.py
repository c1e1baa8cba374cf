"""The profile of the data against plain loops: per reviewer and per rating, however the rows are cut and ordered."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.snapshot_files import FileSink, part_name
from tasks.core.snapshots import read_tables
from tasks.domain.schemas import REVIEWS
from tasks.parallel.exchange import hash_partition, shuffle_in_process
from tasks.stages import describe
from tasks.stages.describe import RATINGS, Profile

Row = dict[str, Any]

VOTES = st.none() | st.integers(0, 2**31 - 1)
ROWS = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from(["a", "b", "ab", "Ab", "é", "anonymous:R1", "a user with a long name"]),
        "item_id": st.sampled_from(["a", "b", "i3", "i4"]),
        "rating": st.sampled_from([1.0, 1.5, 2.5, 3.0, 4.4, 4.5, 5.0]) | st.floats(1, 5, width=32),
        "timestamp": st.datetimes(dt.datetime(1996, 1, 1), dt.datetime(2023, 12, 31)).map(
            lambda t: t.replace(tzinfo=dt.UTC)
        ),
        "helpful_votes": VOTES,
        "total_votes": VOTES,
    }
)
PLAIN = {"title": "", "text": "", "verified": None, "category": None}


def table(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist([{"review_id": f"R{i}", **PLAIN, **row} for i, row in enumerate(rows)], schema=REVIEWS)


def profiles(folder: Path, parts: list[list[Row]], buckets: int) -> list[Profile]:
    """What the stage's tasks make of these parts, without Ray."""
    sink = FileSink(str(folder / "in"))
    names = [folder / "in" / sink.write_table(part_name(i), table(rows)).name for i, rows in enumerate(parts)]
    found: list[Profile] = shuffle_in_process(
        names, describe.split_part, partial(describe.profile, FileSink(str(folder / "out"))), buckets
    )
    return found


def users_by_hand(rows: list[Row]) -> list[Row]:
    by_user: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_user[row["user_id"]].append(row)
    return [
        {
            "user_id": user,
            "reviews": len(theirs),
            "items": len({row["item_id"] for row in theirs}),
            "mean_rating": float(sum(Fraction(float(np.float32(row["rating"]))) for row in theirs) / len(theirs)),
            "first_year": min(row["timestamp"] for row in theirs).year,
            "latest_year": max(row["timestamp"] for row in theirs).year,
            "helpful_votes": sum(row["helpful_votes"] or 0 for row in theirs),
            "total_votes": sum(row["total_votes"] or 0 for row in theirs),
        }
        for user, theirs in sorted(by_user.items(), key=lambda item: item[0].encode())
    ]


def ratings_by_hand(rows: list[Row]) -> list[Row]:
    by_rating: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_rating[int(Fraction(float(np.float32(row["rating"]))) + Fraction(1, 2))].append(row)
    return [
        {
            "rating_bucket": stars,
            "reviews": len(these),
            "reviewers": len({row["user_id"] for row in these}),
            "mean_helpful_votes": sum(row["helpful_votes"] or 0 for row in these) / len(these),
            "earliest_year": min(row["timestamp"] for row in these).year,
        }
        for stars, these in sorted(by_rating.items())
    ]


@given(rows=st.lists(ROWS, min_size=1, max_size=25), data=st.data(), buckets=st.integers(1, 5))
def test_any_cut_into_parts_and_any_order_give_what_a_loop_over_the_rows_gives(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], data: st.DataObject, buckets: int
) -> None:
    folder = tmp_path_factory.mktemp("describe")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    mixed = data.draw(st.permutations(rows))
    found = profiles(folder, [mixed[a:b] for a, b in pairwise([0, *cuts, len(rows)])], buckets)
    files = [folder / "out" / entry.name for bucket in found for entry in bucket.entries]
    parts = [read_tables([f]).to_pylist() for f in files]
    assert [part == sorted(part, key=lambda r: r["user_id"].encode()) for part in parts] == [True] * len(files)
    assert sorted((r for p in parts for r in p), key=lambda r: r["user_id"].encode()) == users_by_hand(rows)
    assert describe.ratings_table(bucket.ratings for bucket in found).to_pylist() == ratings_by_hand(rows)
    assert sum(bucket.items for bucket in found) == len({row["item_id"] for row in rows})
    years = [year for bucket in found for year in bucket.years]
    assert (min(years), max(years)) == (
        min(row["timestamp"].year for row in rows),
        max(row["timestamp"].year for row in rows),
    )


def row(user: str = "u", item: str = "i", rating: float = 3.0, year: int = 2015, helpful: int | None = None) -> Row:
    when = dt.datetime(year, 6, 1, tzinfo=dt.UTC)
    return {"user_id": user, "item_id": item, "rating": rating, "timestamp": when} | {
        "helpful_votes": helpful,
        "total_votes": helpful,
    }


def test_halves_are_rounded_up_and_what_is_below_a_half_is_not() -> None:
    below = [float(np.nextafter(np.float32(half), np.float32(1))) for half in (1.5, 2.5, 3.5, 4.5)]
    ratings = [1.0, 1.5, 2.4, 2.5, 3.5, 4.5, 5.0, *below]
    rows = pl.DataFrame(pl.from_arrow(table([row(rating=r) for r in ratings])))
    found = describe.partial_ratings(rows)
    assert dict(zip(found["rating_bucket"], found["reviews"], strict=True)) == {1: 2, 2: 3, 3: 2, 4: 2, 5: 2}


def test_an_item_reviewed_twice_counts_once_and_users_share_no_items() -> None:
    rows = [row("u", "i"), row("v", "i"), row("u", "i"), row("u", "j"), row("ui", ""), row("u", "i")]
    found = describe.by_user(pl.DataFrame(pl.from_arrow(table(rows))))
    assert found.select("user_id", "reviews", "items").rows() == [("u", 4, 2), ("ui", 1, 1), ("v", 1, 1)]


def test_missing_votes_are_none_and_sums_are_wider_than_32_bits() -> None:
    most = 2**31 - 1
    rows = [row(helpful=most), row(helpful=most), row(helpful=None), row("v")]
    frame = pl.DataFrame(pl.from_arrow(table(rows)))
    assert describe.by_user(frame)["helpful_votes"].to_list() == [2 * most, 0]
    assert describe.ratings_table([describe.partial_ratings(frame)])["mean_helpful_votes"].to_pylist() == [most / 2]


def test_a_new_year_starts_at_midnight_utc() -> None:
    new_year = dt.datetime(2015, 1, 1, tzinfo=dt.UTC)
    rows = [row() | {"timestamp": new_year - dt.timedelta(milliseconds=1)}, row() | {"timestamp": new_year}]
    found = describe.by_user(pl.DataFrame(pl.from_arrow(table(rows))))
    assert found.select("first_year", "latest_year").rows() == [(2014, 2015)]


def test_the_sums_by_rating_need_no_columns_but_four_and_take_any_units() -> None:
    source = pl.DataFrame({"user_id": ["a", "a", "b"], "rating": [5.0, 5.0, 4.0], "helpful_votes": [1234, None, 2]})
    source = source.with_columns(timestamp=pl.Series([0, 86_400 * 366, 0]).cast(pl.Datetime("us")))
    tables = hash_partition(source, pl.col("user_id").hash(1), 3)
    parts = [pl.DataFrame(pl.from_arrow(t)) for t in tables]
    assert sum(map(len, parts)) == len(source)
    assert describe.ratings_table(map(describe.partial_ratings, parts)).to_pylist() == [
        dict(zip(RATINGS.names, (4, 1, 1, 2.0, 1970), strict=True)),
        dict(zip(RATINGS.names, (5, 2, 1, 617.0, 1970), strict=True)),
    ]


def test_a_bucket_without_users_writes_no_file(tmp_path: Path) -> None:
    found = profiles(tmp_path, [[row("only")], []], 7)
    assert sorted(len(bucket.entries) for bucket in found) == [0] * 6 + [1]
    assert sum(bucket.items for bucket in found) == 1
