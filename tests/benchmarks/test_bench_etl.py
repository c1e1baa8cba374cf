"""The peers of the bench agree on dirty rows, and the check that compares the sides can fail."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from benchmarks.cases import aggregate, etl
from benchmarks.cases.etl import Output, skip
from benchmarks.harness import Case, SelfTimed, run_case
from benchmarks.peers import etl as etl_peers

PLAIN = {
    "customer_id": "u1",
    "product_id": "p1",
    "star_rating": 4,
    "review_headline": "Fine",
    "review_body": "It works.",
    "review_date": date(2012, 3, 4),
    "helpful_votes": 1,
    "total_votes": 2,
    "verified_purchase": "Y",
    "product_category": "Books",
}
DAY = timedelta(days=1)
UNUSABLE: list[dict[str, Any]] = [
    {"customer_id": None},
    {"customer_id": "  "},
    {"product_id": ""},
    {"star_rating": None},
    {"star_rating": 0},
    {"star_rating": 6},
    {"review_date": None},
    {"review_date": date(1989, 12, 31)},
    {"review_date": datetime.now(UTC).date() + 3 * DAY},
]
TEXTS = {
    "One.<br />Two.<BR>Three": "One. Two. Three",
    "&lt;br /&gt;Decoded &amp;lt;b&amp;gt;twice": "Decoded twice",
    "I <3 this, a < b &amp; c": "I <3 this, a < b & c",
    "See HTTPS://example.com/a?b=c and WWW.example.com<i>!": "See and !",
    "awww. http is a protocol": "awww. http is a protocol",
    "http://a\x1cb http://c\u3000d": "d",
    "bell\x07 tab\tline\u2028break\xa0\u3000 end\x85 ": "bell tab line break end",
    "cafe\u0301 cafe&#769; caf&eacute;": "café café café",
    "a&nbsp;&amp;nbsp;b &copy": "a b ©",
    "<b\nunder='x'>over lines</b> <b unclosed": "over lines <b unclosed",
    "日本語\u200bのレビュー 😀": "日本語\u200bのレビュー 😀",
    " \n ": "",
}
# Of several reviews with one id, or of one item by one user: the one that stays, and those that do not.
REPEATS: list[dict[str, Any]] = [
    {"review_id": "again", "customer_id": "u2", "review_body": "late", "review_date": date(2013, 1, 1)},
    {"review_id": "again", "customer_id": "u2", "review_body": "early", "review_date": date(2012, 1, 1)},
    {"review_id": "pair-early", "customer_id": "u3", "review_date": date(2012, 1, 1)},
    {"review_id": "pair-late", "customer_id": "u3", "review_date": date(2014, 1, 1)},
    # The later of the two that share an id is the earlier of the two that share user and item.
    {"review_id": "both", "customer_id": "u4", "review_date": date(2010, 1, 1)},
    {"review_id": "both", "customer_id": "u5", "review_date": date(2011, 1, 1)},
    {"review_id": "after", "customer_id": "u5", "review_date": date(2015, 1, 1)},
    {"review_id": "alone", "customer_id": "u4", "review_date": date(2009, 1, 1)},
    {"review_id": "twice", "customer_id": "u6"},
    {"review_id": "twice", "customer_id": "u6"},
]
KEPT = {"again", "pair-late", "after", "alone", "twice"}
OTHERS: list[dict[str, Any]] = [
    {"customer_id": "u7", "helpful_votes": None, "total_votes": None, "review_headline": None, "review_body": None},
    {"customer_id": " u7 ", "product_id": "p2", "verified_purchase": "n", "product_category": None},
    {"customer_id": "u7", "product_id": "p3", "verified_purchase": "perhaps", "star_rating": 1},
    {"customer_id": "u7", "product_id": "p4", "review_date": datetime.now(UTC).date() + DAY},
]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder with all of the above, in two files."""
    texts = [{"customer_id": f"t{i}", "review_body": text} for i, text in enumerate(TEXTS)]
    rows = [
        {"review_id": f"R{i}", **PLAIN, **row}
        for i, row in enumerate([*UNUSABLE, *texts, *REPEATS, *OTHERS, *UNUSABLE])
    ]
    numbers = ("star_rating", "helpful_votes", "total_votes")
    types = {**dict.fromkeys(numbers, pl.Int32), "review_date": pl.Date}
    frame = pl.DataFrame(rows, infer_schema_length=None).cast(types)
    folder = tmp_path / "raw"
    folder.mkdir()
    for i, part in enumerate((frame[:25], frame[25:])):
        part.write_parquet(folder / f"part-{i}.parquet")
    return folder


def run(peer: Any, raw: Path) -> Output:
    out = raw.parent / peer.__name__
    out.mkdir()
    peer(raw, out)
    return Output([out / "reviews.parquet"], [out / "reviewers.parquet"])


def rows_of(output: Output, table: str = "reviews") -> pl.DataFrame:
    (file,) = getattr(output, table)
    frame = pl.read_parquet(file)
    return frame.select(sorted(frame.columns)).sort("review_id" if table == "reviews" else "user_id")


def test_peers_agree_on_dirty_rows_to_the_last_column(raw: Path) -> None:
    plain, *others = (run(peer, raw) for peer in (etl_peers.polars, etl_peers.polars_tuned, etl_peers.pandas))
    for other in others:
        for table in ("reviews", "reviewers"):
            expected, found = rows_of(plain, table), rows_of(other, table)
            assert found.cast(dict(expected.schema)).equals(expected), table


@pytest.mark.parametrize("peer", [etl_peers.polars, etl_peers.polars_tuned], ids=lambda peer: peer.__name__)
def test_a_peer_does_what_the_case_says(raw: Path, peer: Any) -> None:
    output = run(peer, raw)
    reviews = {row["review_id"]: row for row in rows_of(output).iter_rows(named=True)}
    first = len(UNUSABLE)
    assert [reviews[f"R{first + i}"]["text"] for i in range(len(TEXTS))] == list(TEXTS.values())
    others = {f"R{first + len(TEXTS) + len(REPEATS) + i}" for i in range(len(OTHERS))}
    assert set(reviews) == {f"R{first + i}" for i in range(len(TEXTS))} | KEPT | others
    assert (reviews["again"]["text"], reviews["R31"]["text"], reviews["R31"]["title"]) == ("late", "", "")
    assert [reviews[f"R{31 + i}"]["verified"] for i in range(3)] == [True, False, None]
    reviewer = rows_of(output, "reviewers").filter(pl.col("user_id") == "u7").to_dicts()[0]
    assert reviewer == {
        "user_id": "u7", "reviews": 4, "items": 4, "mean_rating": 3.25, "first_year": 2012,
        "latest_year": (datetime.now(UTC) + DAY).year, "helpful_votes": 3, "total_votes": 6,
    }  # fmt: skip


def test_tidying_again_changes_nothing() -> None:
    once = etl_peers.tidy_where_needed(pl.Series(list(TEXTS)))
    assert etl_peers.tidy_where_needed(once).to_list() == once.to_list() == list(TEXTS.values())


def changed(output: Output, folder: Path, **columns: pl.Expr) -> Output:
    """The same side, but for these columns of the review R9."""
    folder.mkdir()
    here = pl.col("review_id") == "R9"
    reviews = rows_of(output).with_columns(pl.when(here).then(e).otherwise(c).alias(c) for c, e in columns.items())
    reviews.write_parquet(folder / "reviews.parquet")
    return Output([folder / "reviews.parquet"], output.reviewers)


@pytest.mark.parametrize("column", ["title", "text", "user_id", "category"])
def test_check_fails_on_a_single_changed_value_and_names_it(raw: Path, tmp_path: Path, column: str) -> None:
    output = run(etl_peers.polars_tuned, raw)
    other = changed(output, tmp_path / "other", **{column: pl.lit("another")})
    with pytest.raises(AssertionError, match=f"1 reviews differ, ours and polars; the first: R9, in {column}"):
        compare(raw, output, other)


def test_check_fails_where_a_row_is_missing_or_a_reviewer_counts_wrong(raw: Path, tmp_path: Path) -> None:
    output = run(etl_peers.polars_tuned, raw)
    rows_of(output)[1:].write_parquet(tmp_path / "fewer.parquet")
    with pytest.raises(AssertionError, match="reviews, ours and polars"):
        compare(raw, output, Output([tmp_path / "fewer.parquet"], output.reviewers))
    wrong = rows_of(output, "reviewers").with_columns(pl.col("total_votes") + 1)
    wrong.write_parquet(tmp_path / "wrong.parquet")
    with pytest.raises(AssertionError, match="mean rating or votes"):
        compare(raw, output, Output(output.reviews, [tmp_path / "wrong.parquet"]))


def test_either_of_two_reviews_of_one_day_may_stay_but_no_made_up_one(raw: Path, tmp_path: Path) -> None:
    file = raw / "part-0.parquet"
    frame = pl.read_parquet(file)
    twin = frame.filter(pl.col("review_id") == "R9").with_columns(review_id=pl.lit("twin"), review_body=pl.lit("else"))
    frame.vstack(twin).write_parquet(file)
    output = run(etl_peers.polars_tuned, raw)
    ids = set(rows_of(output)["review_id"])
    assert ("R9" in ids) != ("twin" in ids)
    if "twin" in ids:
        output = changed_back(output, tmp_path / "back")
    other = changed(output, tmp_path / "other", review_id=pl.lit("twin"), text=pl.lit("else"))
    assert "1 of the reviews had another" in compare(raw, output, other)
    made_up = changed(output, tmp_path / "made-up", review_id=pl.lit("R-none"), text=pl.lit("else"))
    with pytest.raises(AssertionError, match="not in the input: review R-none of polars"):
        compare(raw, output, made_up)


def changed_back(output: Output, folder: Path) -> Output:
    """The side that chose R9, from the one that chose its twin."""
    folder.mkdir()
    text = next(iter(TEXTS.values()))
    reviews = rows_of(output).with_columns(
        text=pl.when(pl.col("review_id") == "twin").then(pl.lit(text)).otherwise("text"),
        review_id=pl.col("review_id").replace("twin", "R9"),
    )
    reviews.write_parquet(folder / "reviews.parquet")
    return Output([folder / "reviews.parquet"], output.reviewers)


def compare(raw: Path, ours: Output, theirs: Output) -> str:
    job = etl.Job(input=raw, workers=2, scratch=raw.parent, settings=None)  # type: ignore[arg-type]  # the check does not look at them
    return etl.check(job, ours, {"polars": theirs})


def test_pandas_is_left_out_where_memory_would_not_do() -> None:
    # Spark is left out where it cannot run.
    assert set(skip(2_000_000)) <= {"spark"}
    assert set(skip(2_000_001)) - {"spark"} == {"pandas", "modin_naive"}


def test_a_side_that_times_itself_and_one_that_is_left_out_are_told_in_the_result() -> None:
    case = Case(
        name="sum",
        size_of="integers",
        default_size=10,
        prepare=lambda setup: list(range(setup.size)),
        ours=sum,
        peers={"far": lambda data: SelfTimed(1000.0, sum(data), {"startup_s": 7.5}), "greedy": sum},
        check=lambda _data, ours, peers: f"{ours} is {peers}",
        skip=lambda size: {"greedy": "too big"} if size > 5 else {},
    )
    result = run_case(case, runs=1)
    assert result["checked"] == "45 is {'far': 45}"
    assert (result["peers"]["far"]["median_s"], result["peers"]["far"]["startup_s"]) == (1000, 7.5)
    assert "startup_s" not in result["ours"]
    assert (set(result["peers"]), set(result["ratio"])) == ({"far"}, {"far"})
    assert result["skipped"] == {"greedy": "too big"}
    assert set(run_case(case, size=5, runs=1)["peers"]) == {"far", "greedy"}


def test_ratings_file_is_cut_anywhere_without_losing_a_row(tmp_path: Path) -> None:
    from tasks.stages.describe import partial_ratings, ratings_table

    path = tmp_path / "ratings.csv"
    aggregate.write_ratings(20_000, path)
    whole = aggregate.polars_query(path, "streaming")
    assert whole == aggregate.polars_query(path, "in-memory")
    assert sum(row["reviews"] for row in whole) == 20_000
    votes = [line.split('"')[1] for line in path.read_text().splitlines() if line.count('"') == 4]
    assert any("," in vote for vote in votes), "no vote of a thousand or more: the comma is not tested"
    for size in (9_973, 1 << 18, 1 << 20, 1 << 30):
        parts = [aggregate.read_range(part) for part in aggregate.ranges(path, size)]
        assert ratings_table([partial_ratings(pl.concat(parts))]).to_pylist() == whole
