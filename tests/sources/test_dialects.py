"""How fields are quoted, and what a header lacks, is found from the file: every dialect gives the same rows."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import InputError
from tasks.sources.delimited import Text
from tasks.sources.dialects import are_quoted, fitted_header
from tasks.sources.profiles import Quoting
from tests.support.accounts import read_all
from tests.support.inspected_files import proposed, use
from tests.support.raw_files import BASE, delimited, review

PROFILE = """
description: made up
columns: {user_id: user, item_id: item, rating: stars, title: title, text: text, timestamp: day}
timestamp: {formats: ["%Y-%m-%d"]}
"""
NAMES = ["user", "item", "stars", "title", "text", "day"]
SAID = [
    'They call it "quiet", and so do I',
    "Plain words, with a comma",
    "Two\nlines, one review",
    '"All of it is quoted"',
    "A path: C:\\new\\table and so on",
    'He said "good"\nand "cheap", twice',
    "A\ttab within",
]
SPARK, PYTHON, DOUBLED = "spark", "python", "doubled"


def rows(n: int = 70) -> list[list[Any]]:
    return [[f"u{i % 9}", f"p{i % 4}", i % 5 + 1, f"Title {i}", f"{SAID[i % 7]} {i}", "2018-01-05"] for i in range(n)]


def written(style: str, delimiter: str, quoting: Any, lines: list[list[Any]]) -> str:
    text = io.StringIO()
    escape = {} if style == DOUBLED else {"escapechar": "\\", "doublequote": False}
    csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=quoting, **escape).writerows(lines)
    # Spark and R leave a backslash before anything but a quote as it is; Python doubles it.
    return text.getvalue().replace("\\\\", "\\") if style == SPARK else text.getvalue()


@pytest.fixture
def profile(tmp_path: Path) -> str:
    (tmp_path / "mine.yaml").write_text(PROFILE)
    return str(tmp_path / "mine.yaml")


@pytest.mark.parametrize("style", [SPARK, PYTHON, DOUBLED])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC, csv.QUOTE_MINIMAL])
class TestQuotes:
    def test_texts_come_back_as_they_were_written(
        self, tmp_path: Path, profile: str, style: str, ending: str, quoting: int
    ) -> None:
        text = written(style, "\t" if ending == "tsv" else ",", quoting, [NAMES, *rows()])
        (tmp_path / f"a.{ending}").write_text(text)
        found = read_all(tmp_path / f"a.{ending}", profile)
        assert [row["text"] for row in found.kept] == [row[4] for row in rows()]
        assert (found.rejected, found.damage) == ([], {})
        kept, rejected = use(proposed(tmp_path / f"a.{ending}"), tmp_path / f"a.{ending}", tmp_path)
        assert [row["text"] for row in kept] == [row[4] for row in rows()]
        assert rejected == []

    @pytest.mark.parametrize("target", [150, 1000])
    def test_a_file_that_is_cut_into_ranges_gives_the_same(
        self,
        tmp_path: Path,
        profile: str,
        style: str,
        ending: str,
        quoting: int,
        target: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        text = written(style, "\t" if ending == "tsv" else ",", quoting, [NAMES, *rows()])
        (tmp_path / f"a.{ending}").write_text(text)
        monkeypatch.setattr("tasks.sources.partitions.PART_MIN_BYTES", 1)
        monkeypatch.setattr("tasks.sources.partitions.SCAN_BYTES", 97)
        monkeypatch.setattr("tasks.sources.partitions._target", lambda _: target)
        found = read_all(tmp_path / f"a.{ending}", profile)
        assert [row["text"] for row in found.kept] == [row[4] for row in rows()]
        assert found.units >= 3


class TestBackslashes:
    def test_lone_ones_are_data_and_the_last_too(self, tmp_path: Path, profile: str) -> None:
        said = ["C:\\new", "\\d+", "two \\\\", '\\"', "5\\"]
        text = ",".join(NAMES) + "\n" + "".join(f'u,p,5,{t},\\"Hi\\", 2018-01-05\n' for t in said)
        (tmp_path / "a.csv").write_text(text + "u,p,5,t,Hi,2018-01-05\\")
        found = read_all(tmp_path / "a.csv", profile)
        assert [row["title"] for row in found.kept] == ["C:\\new", "\\d+", "two \\", '"', "5\\"]
        assert {row["text"] for row in found.kept} == {'"Hi"'}
        assert found.reasons == [(5, "timestamp not understood")]

    def test_they_are_data_where_quotes_are_doubled(self, tmp_path: Path) -> None:
        said = ["ends in a backslash \\", 'a \\" of "its" own', "\\", "\\\\server\\share"]
        (tmp_path / "a.csv").write_text(delimited([review(review_body=text) for text in said]))
        assert [row["text"] for row in read_all(tmp_path).kept] == said

    def test_escapes_that_the_beginning_does_not_show_are_found_or_named(
        self, tmp_path: Path, profile: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain = [[*row[:4], "Plain words, long enough to fill", row[5]] for row in rows(6000)]
        text = written(SPARK, ",", csv.QUOTE_MINIMAL, [NAMES, *plain, *rows()])
        (tmp_path / "a.csv").write_text(text.replace("Plain", '""', 1))
        found = read_all(tmp_path / "a.csv", profile)
        assert (len(found.kept), found.rejected, found.damage) == (6070, [], {})
        monkeypatch.setattr("tasks.sources.text_shapes.MORE_BYTES", 1 << 10)
        found = read_all(tmp_path / "a.csv", profile)
        assert "quotes are escaped by a backslash" in found.damage["a.csv"]
        (tmp_path / "mine.yaml").write_text(PROFILE + "csv: {escape: '\\'}\n")
        assert len(read_all(tmp_path / "a.csv", profile).kept) == 6070

    def test_the_profile_decides_where_it_says_so(self, tmp_path: Path, profile: str) -> None:
        (tmp_path / "mine.yaml").write_text(PROFILE + "csv: {escape: null}\n")
        (tmp_path / "a.csv").write_text(written(SPARK, ",", csv.QUOTE_ALL, [NAMES, *rows()[:1], *rows()[1:2]]))
        assert read_all(tmp_path / "a.csv", profile).rejected != []

    @given(st.text(alphabet='\\"a,\n', max_size=40), st.integers(1, 9))
    def test_the_sizes_of_reads_change_nothing(self, text: str, size: int) -> None:
        class Small(io.BytesIO):
            def read(self, n: int | None = -1) -> bytes:
                return super().read(size)

        quoting = Quoting(quote='"', delimiter=",", escape="\\")
        one, other = Text(io.BytesIO(text.encode()), quoting, 2), Text(Small(text.encode()), quoting, 2)
        assert one.read().replace(one.mark.encode(), b"") == other.read().replace(other.mark.encode(), b"")


class TestQuotesAsData:
    @pytest.mark.parametrize(
        "said", ['"Great" he said', '"Great"', 'an 8" pan', '"never closed', '"a" and "b"', '5"', '""', '"']
    )
    def test_in_tsv_they_are_kept_where_they_enclose_no_fields(self, tmp_path: Path, said: str) -> None:
        texts = [said if i % 3 else f"Plain {i}" for i in range(60)]
        text = delimited([review(review_body=t) for t in texts], "\t", quoted=False)
        (tmp_path / "a.tsv").write_text(text)
        assert not are_quoted(text.encode(), "\t")
        assert [row["text"] for row in read_all(tmp_path).kept] == texts

    def test_a_profile_that_takes_them_for_data_reads_no_quoted_file(self, tmp_path: Path) -> None:
        lines = [[*BASE], *([*review(review_body='Two "good"\nlines').values()] for _ in range(20))]
        for quoting in (csv.QUOTE_ALL, csv.QUOTE_MINIMAL):
            (tmp_path / "a.tsv").write_text(written(DOUBLED, "\t", quoting, lines))
            with pytest.raises(InputError, match="quotes, which the profile takes for data"):
                read_all(tmp_path)


class TestHeaders:
    def test_row_names_without_a_name_are_an_index(self, tmp_path: Path, profile: str) -> None:
        lines = [NAMES, *([str(i + 1), *row] for i, row in enumerate(rows()))]
        (tmp_path / "a.tsv").write_text(written(SPARK, "\t", csv.QUOTE_NONNUMERIC, lines))
        (tmp_path / "b.csv").write_text(written(DOUBLED, ",", csv.QUOTE_MINIMAL, lines))
        for name in ("a.tsv", "b.csv"):
            found = read_all(tmp_path / name, profile)
            assert [row["text"] for row in found.kept] == [row[4] for row in rows()]
            assert found.rejected == []
            assert proposed(tmp_path / name).chosen.usable == 70  # type: ignore[union-attr]

    @pytest.mark.parametrize("trailing", [(0, 1), (1, 0), (1, 1), (0, 2)])
    def test_delimiters_at_the_ends_of_lines_make_no_columns(
        self, tmp_path: Path, profile: str, trailing: tuple[int, int]
    ) -> None:
        in_header, in_rows = trailing
        lines = [[*NAMES, *[""] * in_header], *([*row, *[""] * in_rows] for row in rows())]
        (tmp_path / "a.csv").write_text(written(DOUBLED, ",", csv.QUOTE_MINIMAL, lines))
        found = read_all(tmp_path / "a.csv", profile)
        assert [row["text"] for row in found.kept] == [row[4] for row in rows()]
        assert proposed(tmp_path / "a.csv").chosen.usable == 70  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("records", "header"),
        [
            ([["1", "2"]] * 9, ("a", "b")),
            ([["x", "1", "2"]] * 9, ("a", "b")),  # no index: it repeats
            ([[str(i), "1", "2"] for i in range(9)], ("", "a", "b")),
            ([["1", "2", "", ""]] * 9, ("a", "b", "column_3", "column_4")),
            ([["1", "2"]] * 8 + [["1", "2", "3"]], ("a", "b")),
            ([], ("a", "b")),
        ],
    )
    def test_a_header_is_changed_only_where_the_records_agree(
        self, records: list[list[str]], header: tuple[str, ...]
    ) -> None:
        assert fitted_header(["a", "b"], records) == header
