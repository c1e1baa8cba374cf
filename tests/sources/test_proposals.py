"""Dataset profiles proposed for columns that no shipped one knows: each is used as it would be in a run."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import ProfileError
from tasks.sources import load_profile
from tasks.sources.column_guesses import Column
from tasks.sources.proposals import Proposal, propose
from tests.support.inspected_files import as_csv, proposed, use, words


class TestProposals:
    def test_reviews_with_titles_texts_stars_and_products_alone_can_be_read(self, tmp_path: Path) -> None:
        rows = [[f"Title {i % 7}", f"{words(i)}\nand more", i % 5 + 1, f"Buds {i % 3}"] for i in range(60)]
        (tmp_path / "a.csv").write_text(as_csv([["ReviewTitle", "ReviewBody", "ReviewStar", "Product"], *rows]))
        found = proposed(tmp_path)
        kept, rejected = use(found, tmp_path / "a.csv", tmp_path)
        assert rejected == []
        assert [(r["title"], r["text"], r["rating"], r["item_id"]) for r in kept] == [tuple(r) for r in rows]
        assert len({r["user_id"] for r in kept}) == 60
        assert "a split by time cannot work" in (found.yaml or "")
        assert len((found.yaml or "").splitlines()) <= 12

    def test_delimiter_encoding_and_flags_of_a_german_export_are_found(self, tmp_path: Path) -> None:
        head = ["Kundennr", "SKU", "Stars", "Datum", "Review", "verified"]
        rows = [
            [f"K{i % 9}", f"P{i % 4}", i % 5 + 1, f"{i % 28 + 1}.3.2019", f"größer; {words(i)}", "Yes"]
            for i in range(60)
        ]
        (tmp_path / "a.csv").write_bytes(as_csv([head, *rows], ";").encode("windows-1252"))
        found = proposed(tmp_path)
        kept, rejected = use(found, tmp_path / "a.csv", tmp_path)
        assert rejected == []
        assert kept[1]["text"] == f"größer; {words(1)}"
        assert kept[1]["timestamp"] == dt.datetime(2019, 3, 2, tzinfo=dt.UTC)
        assert kept[1]["verified"] is True
        assert kept[1]["user_id"] == "K1"
        assert found.layouts[0].encoding == "windows-1252"

    def test_files_without_a_header_row_are_mapped_by_what_they_hold(self, tmp_path: Path) -> None:
        rows = [
            [f"AB{i * i % 61}X", f"B{i % 7:04}", i % 5 + 1, 1_300_000_000 + i * 86_400, f"Short {i}", words(i) * 2]
            for i in range(200)
        ]
        (tmp_path / "a.csv").write_text(as_csv(rows))
        found = proposed(tmp_path)
        kept, rejected = use(found, tmp_path / "a.csv", tmp_path)
        assert rejected == []
        got = [
            (r["user_id"], r["item_id"], r["rating"], r["timestamp"].timestamp(), r["title"], r["text"]) for r in kept
        ]
        assert got == [tuple(r) for r in rows]

    def test_part_files_whose_header_stands_in_the_first_alone_share_it(self, tmp_path: Path) -> None:
        rows = [[f"u{i % 9}", f"i{i % 4}", i % 5 + 1, "2019-03-01", words(i)] for i in range(40)]
        (tmp_path / "a.csv").write_text(as_csv([["user", "item", "stars", "date", "text"], *rows[:20]]))
        (tmp_path / "b.csv").write_text(as_csv(rows[20:]))
        found = proposed(tmp_path)
        assert len(found.layouts) == 1
        raw = tmp_path / "raw"
        raw.mkdir()
        for name in "ab":
            (tmp_path / f"{name}.csv").rename(raw / f"{name}.csv")
        kept, rejected = use(found, raw, tmp_path)
        assert (len(kept), rejected) == (40, [])

    def test_missing_texts_dates_and_null_words_are_provided_for(self, tmp_path: Path) -> None:
        rows = [[f"u{i % 9}", f"i{i % 4}" if i % 9 else "N/A", i % 5 + 1] for i in range(60)]
        (tmp_path / "a.csv").write_text(as_csv([["user", "item", "stars"], *rows]))
        found = proposed(tmp_path)
        assert found.chosen is not None
        assert found.chosen.profile.nulls == ("N/A",)
        kept, rejected = use(found, tmp_path / "a.csv", tmp_path)
        assert {r["text"] for r in kept} == {""}
        assert {r["reason"] for r in rejected} == {"no item_id"}

    def test_pairs_of_votes_become_both_columns(self, tmp_path: Path) -> None:
        records = [
            {"author": f"u{i % 5}", "item": f"i{i % 3}", "score": i % 5 + 1, "helpful": [i, i + 2], "comment": words(i)}
            | {"created": "2020-03-04 10:11:12"}
            for i in range(30)
        ]
        (tmp_path / "a.json").write_text(json.dumps(records))
        kept, _ = use(proposed(tmp_path), tmp_path / "a.json", tmp_path)
        assert [(r["helpful_votes"], r["total_votes"]) for r in kept] == [(i, i + 2) for i in range(30)]
        assert kept[0]["timestamp"] == dt.datetime(2020, 3, 4, 10, 11, 12, tzinfo=dt.UTC)

    @pytest.mark.parametrize("name", ["", "Unnamed: 0", "index", "id"])
    @pytest.mark.parametrize("gaps", [False, True])
    def test_row_numbers_are_nobodys_id(self, tmp_path: Path, name: str, gaps: bool) -> None:
        rows = [
            [i * (1 + gaps) + 1000 * gaps, 400 + i * i % 37, i % 5 + 1, words(i), "2019-03-01"] for i in range(1500)
        ]
        (tmp_path / "a.csv").write_text(as_csv([[name, "Clothing ID", "Rating", "Review", "Date"], *rows]))
        found = proposed(tmp_path)
        assert found.chosen is not None
        assert found.chosen.profile.columns["item_id"] == "Clothing ID"
        assert "user_id" not in found.chosen.profile.columns
        if not gaps:
            assert found.layouts[0].columns[0].kind == "row number"
            assert "review_id" not in found.chosen.profile.columns

    def test_row_numbers_of_several_files_are_no_ids_of_reviews(self, tmp_path: Path) -> None:
        for name in "ab":
            rows = [[i + 1, f"u{i % 9}", f"i{i % 4}", i % 5 + 1, "2019-03-01", words(i)] for i in range(40)]
            head = ["review_id", "user", "item", "stars", "date", "text"]
            (tmp_path / f"{name}.csv").write_text(as_csv([head, *rows]))
        found = proposed(tmp_path)
        assert found.chosen is not None
        assert "review_id" not in found.chosen.profile.columns

    # Without letters: a column named "category" is rightly taken for what it says. A blank name is none.
    @given(
        st.lists(
            st.text(st.characters(codec="utf-8", exclude_categories=["L"]), min_size=1).filter(str.strip),
            min_size=2,
            max_size=2,
            unique=True,
        )
    )
    def test_columns_of_any_name_survive_the_yaml(self, names: list[str]) -> None:
        columns = [
            Column.of(names[0], pl.Series([float(i % 5 + 1) for i in range(30)])),
            Column.of(names[1], pl.Series([words(i) for i in range(30)])),
        ]
        proposal = propose(columns, description=" ".join(names))
        assert isinstance(proposal, Proposal)
        assert proposal.profile.columns == {"rating": names[0], "text": names[1]}
        assert yaml.safe_load(proposal.text)["description"] == " ".join(names)


class TestTimes:
    @pytest.mark.parametrize(
        ("texts", "formats", "ambiguous"),
        [
            (["1/17/2014", "3/2/2015"], ("%m/%d/%Y",), False),
            (["17/1/2014", "3/2/2015"], ("%d/%m/%Y",), False),
            (["1/2/2014", "3/2/2015"], ("%m/%d/%Y",), True),
            (["1/17/14", "3/2/15"], ("%m/%d/%y",), False),
            (["2014-01-17", "2014-02-01"], ("%Y-%m-%d",), False),
            (["Jan 17, 2014", "May 1, 2015"], ("%B %d, %Y",), False),
            (["04 19, 2013", "05 1, 2013"], ("%m %d, %Y",), False),
            (["2014-01-17T10:00:00Z", "2014-01-17T10:00:00.5Z"], ("%Y-%m-%dT%H:%M:%S%.fZ",), False),
        ],
    )
    def test_formats_of_texts(self, texts: list[str], formats: tuple[str, ...], ambiguous: bool) -> None:
        times = Column.of("when", pl.Series(texts * 10)).times
        assert times is not None
        assert (times.formats, times.ambiguous) == (formats, ambiguous)

    @pytest.mark.parametrize(
        ("text", "moment"),
        [
            ("2018-01-05 10:00:00 UTC", "2018-01-05 10:00:00"),
            ("2018-01-05 10:00:00.250000 UTC", "2018-01-05 10:00:00.250"),
            ("Fri Jan 05 10:00:00 -0800 2018", "2018-01-05 18:00:00"),
            ("Fri, 05 Jan 2018 10:00:00 +0100", "2018-01-05 09:00:00"),
            ("Fri, 05 Jan 2018 10:00:00 GMT", "2018-01-05 10:00:00"),
            ("2018-01-05T10:00:00.506003+02:00", "2018-01-05 08:00:00.506"),
            ("2018-01-05T10:00:00+0200", "2018-01-05 08:00:00"),
            ("2018-01-05 10:00:00+00", "2018-01-05 10:00:00"),
            ("2018-01-05T10:00", "2018-01-05 10:00:00"),
            ("Jan, 2018", "2018-01-01 00:00:00"),
            ("January 2018", "2018-01-01 00:00:00"),
            ("2018-01", "2018-01-01 00:00:00"),
            ("Friday, January 5, 2018", "2018-01-05 00:00:00"),
            ("Reviewed in the United States on January 5, 2018", "2018-01-05 00:00:00"),
            ("Posted by Ann on 2018-01-05", "2018-01-05 00:00:00"),
            ("Reviewed in the United Kingdom on 5 January 2018", "2018-01-05 00:00:00"),
        ],
    )
    def test_times_as_exports_write_them_are_found_and_read(self, tmp_path: Path, text: str, moment: str) -> None:
        rows = [[f"u{i}", f"i{i % 3}", i % 5 + 1, text, words(i)] for i in range(30)]
        (tmp_path / "a.csv").write_text(as_csv([["user", "item", "stars", "when_posted_date", "text"], *rows]))
        kept, rejected = use(proposed(tmp_path), tmp_path / "a.csv", tmp_path)
        assert {row["timestamp"] for row in kept} == {dt.datetime.fromisoformat(moment).replace(tzinfo=dt.UTC)}
        assert rejected == []

    def test_dates_in_sentences_are_judged_by_their_order_too(self, tmp_path: Path) -> None:
        raw = tmp_path / "raw"
        raw.mkdir()
        for name, days in (("us", ["03/04/2018", "03/25/2018"]), ("uk", ["04/03/2018", "25/03/2018"])):
            rows = [[f"u{i}{name}", "i", i % 5 + 1, f"Posted by Ann on {days[i % 2]}", words(i)] for i in range(30)]
            (raw / f"{name}.csv").write_text(as_csv([["user", "item", "stars", "date", "text"], *rows]))
        kept, rejected = use(proposed(raw), raw, tmp_path)
        assert {f"{row['timestamp']:%m-%d}" for row in kept} == {"03-04", "03-25"}
        assert rejected == []

    def test_a_column_of_dates_in_an_unknown_format_is_named(self, tmp_path: Path) -> None:
        rows = [[f"u{i}", "i", i % 5 + 1, f"{i % 9 + 2} months ago", words(i)] for i in range(30)]
        (tmp_path / "a.csv").write_text(as_csv([["user", "item", "stars", "date", "text"], *rows]))
        assert '# date may hold dates in an unknown format, such as "2 months ago"' in (proposed(tmp_path).yaml or "")

    @pytest.mark.parametrize(("pattern", "says"), [("(", "no regular expression"), ("on .*", "parentheses")])
    def test_a_pattern_that_cuts_nothing_is_refused(self, tmp_path: Path, pattern: str, says: str) -> None:
        (tmp_path / "mine.yaml").write_text(f"description: x\ncolumns: {{}}\ntimestamp: {{pattern: '{pattern}'}}\n")
        with pytest.raises(ProfileError, match=says):
            load_profile(str(tmp_path / "mine.yaml"))

    def test_two_formats_in_one_column_are_both_taken(self) -> None:
        times = Column.of("when", pl.Series(["2014-01-17"] * 8 + ["1/17/2014"] * 2)).times
        assert times is not None
        assert times.formats == ("%Y-%m-%d", "%m/%d/%Y")

    @pytest.mark.parametrize(("factor", "unit"), [(1, "s"), (10**3, "ms"), (10**6, "us"), (10**9, "ns")])
    @pytest.mark.parametrize("kind", [pl.Int64, pl.String])
    def test_units_of_numbers(self, factor: int, unit: str, kind: Any) -> None:
        times = Column.of("when", pl.Series([1_300_000_000 * factor] * 5).cast(kind)).times
        assert times is not None
        assert times.unit == unit

    @pytest.mark.parametrize("values", [[1, 2, 3], ["12", "13"], ["a 1 b 2", "see 3/4"], [True, False]])
    def test_what_is_no_time(self, values: list[Any]) -> None:
        assert Column.of("x", pl.Series(values)).times is None
