"""The profile of the data on a real Ray session, and the shuffle that it stands on."""

from __future__ import annotations

import datetime as dt
from functools import partial
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from tasks.core.errors import InputError
from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.engines import cluster, expectations
from tasks.parallel.exchange import shuffle, shuffle_in_process
from tasks.stages.describe import RATINGS, REVIEWERS, describe
from tests.support.stage_runs import made, put_reviews, settings

pytestmark = pytest.mark.usefixtures("ray_session")
DAY = dt.datetime(2014, 1, 1, tzinfo=dt.UTC)


def rows(n: int) -> list[dict[str, Any]]:
    return [
        {
            "user_id": f"u{i * i % 37}",
            "item_id": f"p{i % 11}",
            "rating": 1 + i % 9 / 2,
            "timestamp": DAY + dt.timedelta(days=i * 7),
            "helpful_votes": None if i % 3 else i,
            "total_votes": None if i % 3 else 2 * i,
        }
        for i in range(n)
    ]


def profile_of(store: SnapshotStore, reviews: Snapshot, *overrides: str) -> Snapshot:
    return made(store, describe, [reviews], settings(*overrides).describe).snapshot


def test_the_profile_is_what_polars_finds(store: SnapshotStore) -> None:
    given = rows(200)
    done = profile_of(store, put_reviews(store, given[:90], given[90:], []), "describe.buckets=3")
    frame = pl.DataFrame(given)
    year = pl.col("timestamp").dt.year()
    users = frame.group_by("user_id").agg(
        reviews=pl.len().cast(pl.Int64),
        items=pl.n_unique("item_id").cast(pl.Int64),
        mean_rating=pl.mean("rating"),
        first_year=year.min(),
        latest_year=year.max(),
        helpful_votes=pl.sum("helpful_votes"),
        total_votes=pl.sum("total_votes"),
    )
    assert pl.DataFrame(pl.from_arrow(done.read())).sort("user_id").equals(users.sort("user_id"))
    ratings = frame.group_by((pl.col("rating") + 0.5).floor().cast(pl.Int8).alias("rating_bucket")).agg(
        reviews=pl.len().cast(pl.Int64),
        reviewers=pl.n_unique("user_id").cast(pl.Int64),
        mean_helpful_votes=pl.col("helpful_votes").fill_null(0).mean(),
        earliest_year=year.min(),
    )
    assert pl.DataFrame(pl.from_arrow(done.read("ratings"))).equals(ratings.sort("rating_bucket"))
    years = frame.select(first_year=year.min(), latest_year=year.max()).row(0, named=True)
    assert done.facts == {"reviews": 200, "reviewers": len(users), "items": 11, **years}


def test_tables_have_their_schemas_and_each_file_is_sorted_and_has_users_of_its_own(store: SnapshotStore) -> None:
    done = profile_of(store, put_reviews(store, rows(150)), "describe.buckets=4")
    assert (done.read().schema, done.read("ratings").schema) == (REVIEWERS, RATINGS)
    files = [pa.parquet.read_table(file)["user_id"].to_pylist() for file in done.files()]
    assert len(files) == 4
    assert [users == sorted(set(users)) for users in files] == [True] * 4
    assert len({user for users in files for user in users}) == done.rows()


def test_the_digest_does_not_depend_on_how_the_reviews_are_cut_into_files(tmp_path: Any) -> None:
    given = [row | {"review_id": f"R{i}"} for i, row in enumerate(rows(120))]
    digests = set()
    for number, cuts in enumerate([(120,), (1, 120), (50, 50, 77, 120)]):
        store = SnapshotStore(tmp_path / str(number))
        parts = [given[a:b] for a, b in zip((0, *cuts), cuts, strict=False)]
        digests.add(profile_of(store, put_reviews(store, *parts)).digest)
    assert len(digests) == 1


def test_its_suite_holds_for_the_profile_and_not_for_a_wrong_one(
    store: SnapshotStore, validators: expectations.Validators
) -> None:
    done = profile_of(store, put_reviews(store, rows(80)))
    suite = expectations.load_suite("describe")
    found = validators.validate(suite, {"": done.files(), "ratings": done.files("ratings")})
    assert found.failures() == []
    wrong = done.read().to_pandas()
    wrong.loc[3, "items"] = wrong.loc[3, "reviews"] + 1
    wrong.loc[5, "user_id"] = wrong.loc[4, "user_id"]
    out = store.open_attempt("wrong", "wrong")
    out.write_table("part-00000.parquet", pa.Table.from_pandas(wrong, REVIEWERS, preserve_index=False))
    found = validators.validate(suite, {"": out.files(), "ratings": done.files("ratings")})
    assert {failure["type"] for failure in found.failures()} == {
        "expect_column_values_to_be_unique",
        "expect_column_pair_values_a_to_be_greater_than_b",
    }


def split_by_rest(block: list[int], buckets: int) -> list[list[int]]:
    return [[number for number in block if number % buckets == b] for b in range(buckets)]


def told(bucket: int, slices: list[list[int]], mark: str) -> tuple[str, int, list[list[int]]]:
    return mark, bucket, slices


def refuse(bucket: int, slices: list[list[int]]) -> None:
    raise InputError("odd", where=f"bucket {bucket}")


class TestShuffle:
    @pytest.mark.parametrize("buckets", [1, 2, 5])
    @pytest.mark.parametrize("blocks", [[[1, 2, 3]], [[4, 5], [], [9, 8, 7, 6]]], ids=["one block", "three blocks"])
    def test_each_bucket_sees_its_slice_of_each_block_in_block_order(
        self, blocks: list[list[int]], buckets: int
    ) -> None:
        expected = [("!", b, [[n for n in block if n % buckets == b] for block in blocks]) for b in range(buckets)]
        reduce = partial(told, mark="!")
        assert shuffle_in_process(blocks, split_by_rest, reduce, buckets) == expected
        assert cluster.gather(shuffle(blocks, split_by_rest, reduce, buckets)) == expected

    def test_an_error_of_a_bucket_is_raised_as_it_is(self) -> None:
        with pytest.raises(InputError, match="bucket 0: odd"):
            cluster.gather(shuffle([[0], [1]], split_by_rest, refuse, 2)[:1])
