"""Votes that contradict each other are unknown, not learned from, and each lost value is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tasks import sources
from tasks.core.snapshot_files import FileSink
from tasks.domain.schemas import REVIEWS
from tasks.domain.targets import labels, target_of
from tasks.settings import load_settings
from tasks.sources.inspection import inspect
from tasks.sources.lost_values import in_words
from tasks.stages.ingest import read_parts
from tests.support.accounts import read_all
from tests.support.inspected_files import json_lines
from tests.support.raw_files import delimited, review


@pytest.mark.parametrize(
    ("helpful", "total", "kept"),
    [
        (3, 2, None),
        (2, 2, (2, 2)),
        (0, 0, (0, 0)),
        (-1, 2, None),
        (1, -2, None),
        ("", 7, (None, 7)),
        (7, "", (7, None)),
    ],
)
def test_votes_that_cannot_be_are_unknown_and_the_row_is_kept(
    tmp_path: Path, helpful: Any, total: Any, kept: tuple[int, int] | None
) -> None:
    (tmp_path / "a.csv").write_text(delimited([review(helpful_votes=helpful, total_votes=total)]))
    (row,) = read_all(tmp_path).kept
    assert (row["helpful_votes"], row["total_votes"]) == (kept or (None, None))


def test_pairs_of_votes_are_checked_alike(tmp_path: Path) -> None:
    base = {"reviewerID": "u", "asin": "B1", "overall": 4, "reviewText": "Fine", "unixReviewTime": 1_400_000_000}
    (tmp_path / "a.json").write_text(json_lines({**base, "helpful": [9, 2]}, {**base, "helpful": [1, 2]}))
    kept = read_all(tmp_path, "amazon-2014").kept
    assert [(row["helpful_votes"], row["total_votes"]) for row in kept] == [(None, None), (1, 2)]


def test_the_share_of_helpful_votes_is_never_above_one(tmp_path: Path) -> None:
    rows = [review(review_id=f"R{i}", helpful_votes=i, total_votes=10) for i in range(20)]
    (tmp_path / "a.csv").write_text(delimited(rows))
    table = pa.Table.from_pylist(read_all(tmp_path).kept, schema=REVIEWS)
    shares = labels(table, target_of("helpful"), 5)
    assert pc.max(shares).as_py() == 1
    assert shares.null_count == 9


def test_lost_values_are_counted_in_inspect_and_in_ingest(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    rows = [review(helpful_votes=3, total_votes=2), review(verified_purchase="perhaps"), review(helpful_votes="")]
    (raw / "a.csv").write_text(delimited([*rows, review(star_rating="9", helpful_votes="many")]))
    found = inspect([str(raw)], "amazon-us").chosen
    assert found is not None
    expected = {"helpful_votes": 1, "total_votes": 1, "verified": 1}
    assert dict(found.lost) == expected
    config = load_settings().ingest
    source = sources.discover(str(raw), "amazon-us", config)
    recipe = sources.Recipe("reviews", source.profile, config, sources.Period.of(config.earliest, config.latest))
    (part,) = sources.plan(source)
    outcome = read_parts.load_part((0, part), recipe, None, FileSink(tmp_path)).to_pylist()
    assert [row["lost"] for row in outcome if row["kind"] == "unit"] == [
        '{"helpful_votes": 1, "total_votes": 1, "verified": 1}'
    ]
    assert in_words(expected)[2] == "1 values of verified unknown"
