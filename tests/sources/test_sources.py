"""Raw files to canonical rows: every format, type and part."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks import sources
from tasks.core.errors import InputError
from tests.support.raw_files import BASE, DAY, delimited, read, read_with_damage, review, write_parquet


class TestFormats:
    def test_a_row_is_mapped_to_the_canonical_columns(self, tmp_path: Path) -> None:
        kept, rejected = read(write_parquet(tmp_path / "a.parquet", [BASE]))
        assert rejected == []
        assert kept == [
            {
                "review_id": "R1",
                "user_id": "12",
                "item_id": "B1",
                "rating": 5.0,
                "title": "Good",
                "text": "Bright lamp",
                "timestamp": DAY,
                "helpful_votes": 1,
                "total_votes": 2,
                "verified": True,
                "category": "Home",
            }
        ]

    def test_parquet_csv_and_tsv_of_the_same_reviews_give_the_same_rows(self, tmp_path: Path) -> None:
        rows = [review(review_id=f"R{i}", star_rating=str(i), review_body=f"Größe {i} 😀") for i in (1, 2, 3)]
        (tmp_path / "a.csv").write_text(delimited(rows))
        (tmp_path / "a.tsv").write_text(delimited(rows, "\t", quoted=False))
        write_parquet(tmp_path / "a.parquet", rows)
        found = [read(tmp_path / f"a.{ending}") for ending in ("parquet", "csv", "tsv")]
        assert found[0] == found[1] == found[2]
        assert [r["text"] for r in found[0][0]] == [r["review_body"] for r in rows]

    def test_csv_values_may_hold_commas_quotes_and_lines(self, tmp_path: Path) -> None:
        text = 'One, two\n\n"three"\nfour'
        (tmp_path / "a.csv").write_text(delimited([review(review_body=text), review(review_id="R2")]))
        kept, rejected = read(tmp_path)
        assert [r["text"] for r in kept] == [text, "Bright lamp"]
        assert rejected == []

    @pytest.mark.parametrize("header", [True, False])
    def test_tsv_quotes_are_data_and_the_header_may_be_missing(self, tmp_path: Path, header: bool) -> None:
        rows = [review(review_body='"Open only'), review(review_id="R2", review_headline='5" wide')]
        (tmp_path / "a.tsv").write_text(delimited(rows, "\t", quoted=False, header=header))
        kept, rejected = read(tmp_path)
        assert [(r["review_id"], r["title"], r["text"]) for r in kept] == [
            ("R1", "Good", '"Open only'),
            ("R2", '5" wide', "Bright lamp"),
        ]
        assert rejected == []

    def test_a_header_with_another_name_for_a_column_is_not_taken_for_data(self, tmp_path: Path) -> None:
        text = delimited([BASE], "\t", quoted=False).replace("star_rating", "stars")
        (tmp_path / "a.tsv").write_text(text)
        with pytest.raises(InputError, match="star_rating"):
            read(tmp_path)

    @pytest.mark.parametrize("ending", ["csv", "tsv"])
    @pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
    @pytest.mark.parametrize("newline", ["\n", "\r\n"])
    @pytest.mark.parametrize("last", [True, False])
    def test_byte_order_mark_line_ends_and_a_missing_last_one_do_not_matter(
        self, tmp_path: Path, ending: str, bom: bytes, newline: str, last: bool
    ) -> None:
        text = delimited([BASE, review(review_id="R2")], "," if ending == "csv" else "\t")
        text = (text if last else text.rstrip("\n")).replace("\n", newline)
        (tmp_path / f"a.{ending}").write_bytes(bom + text.encode())
        kept, rejected = read(tmp_path)
        assert [(r["review_id"], r["timestamp"], r["text"]) for r in kept] == [
            ("R1", DAY, "Bright lamp"),
            ("R2", DAY, "Bright lamp"),
        ]
        assert rejected == []

    def test_columns_may_stand_in_any_order_beside_others_and_optional_ones_be_missing(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text(
            "note,review_body,star_rating,review_date,product_id,customer_id\nx,Fine,4,08/31/2015,B1,7\n"
        )
        (row,), rejected = read(tmp_path)
        assert rejected == []
        assert (row["text"], row["rating"], row["timestamp"], row["user_id"]) == ("Fine", 4.0, DAY, "7")
        assert row["title"] == ""
        assert [row[c] for c in ("helpful_votes", "total_votes", "verified", "category")] == [None] * 4

    def test_bytes_that_are_not_utf8_cost_neither_file_nor_row(self, tmp_path: Path) -> None:
        data = delimited([review(review_body="Caf\xe9"), review(review_id="R2", review_body="Größe")])
        latin = data.encode().replace("Caf\xe9".encode(), b"Caf\xe9")
        (tmp_path / "a.csv").write_bytes(latin)
        kept, rejected = read(tmp_path)
        assert [r["text"] for r in kept] == ["Caf\ufffd", "Größe"]
        assert rejected == []

    def test_a_file_with_a_header_alone_gives_no_rows(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text(delimited([]))
        assert read(tmp_path) == ([], [])

    def test_an_unclosed_quote_ends_the_file_there_and_is_told(self, tmp_path: Path) -> None:
        rows = [review(review_id=f"R{i}") for i in range(5)]
        lines = delimited(rows).splitlines(keepends=True)
        lines[2] = lines[2].replace("Bright lamp", '"Bright lamp')
        (tmp_path / "a.csv").write_text("".join(lines))
        kept, rejected, damage = read_with_damage(tmp_path)
        assert [r["review_id"] for r in kept] == ["R0"]
        assert [r["row"] for r in rejected] == [1]
        assert damage == ["a quote that opens in row 1 is never closed"]


class TestTypes:
    def test_integer_ids_become_their_digits(self, tmp_path: Path) -> None:
        rows = [review(customer_id=2**53 + 1, product_id=7)]
        (row,), _ = read(write_parquet(tmp_path / "a.parquet", rows))
        assert (row["user_id"], row["item_id"]) == (str(2**53 + 1), "7")

    @pytest.mark.parametrize("rating", [4, 4.0, "4", "4.0"])
    def test_a_rating_may_be_a_number_or_its_text(self, tmp_path: Path, rating: Any) -> None:
        (row,), rejected = read(write_parquet(tmp_path / "a.parquet", [review(star_rating=rating)]))
        assert row["rating"] == 4.0
        assert rejected == []

    def test_dictionary_encoded_columns_are_read_by_their_values(self, tmp_path: Path) -> None:
        table = pa.Table.from_pylist([review(review_id="R1"), review(review_id="R2", star_rating="3")])
        coded = pa.table({c: table[c].dictionary_encode() for c in table.column_names})
        pq.write_table(coded, tmp_path / "a.parquet")
        kept, rejected = read(tmp_path)
        assert rejected == []
        assert [(r["review_id"], r["rating"], r["timestamp"], r["text"]) for r in kept] == [
            ("R1", 5.0, DAY, "Bright lamp"),
            ("R2", 3.0, DAY, "Bright lamp"),
        ]

    @pytest.mark.parametrize(
        ("given", "meant"),
        [
            ("2015-08-31", DAY),
            ("08/31/2015", DAY),
            (dt.date(2015, 8, 31), DAY),
            (dt.datetime(2015, 8, 31, 12), DAY + dt.timedelta(hours=12)),
            (dt.datetime(2015, 8, 31, 12, tzinfo=dt.timezone(dt.timedelta(hours=-7))), DAY + dt.timedelta(hours=19)),
            (int(DAY.timestamp() * 1000), DAY),
        ],
    )
    def test_times_become_utc_whatever_their_type(self, tmp_path: Path, given: Any, meant: dt.datetime) -> None:
        kept, rejected = read(write_parquet(tmp_path / "a.parquet", [review(review_date=given)]))
        assert rejected == []
        assert kept[0]["timestamp"] == meant

    def test_a_named_time_zone_with_daylight_saving_is_converted(self, tmp_path: Path) -> None:
        table = pa.Table.from_pylist([BASE]).drop_columns("review_date")
        noon = pa.array([dt.datetime(2015, 7, 1, 12, tzinfo=dt.UTC)], pa.timestamp("us", "America/New_York"))
        pq.write_table(table.append_column("review_date", noon), tmp_path / "a.parquet")
        kept, _ = read(tmp_path)
        assert kept[0]["timestamp"] == dt.datetime(2015, 7, 1, 12, tzinfo=dt.UTC)

    @pytest.mark.parametrize(
        ("given", "meant"), [("Y", True), (" yes ", True), ("N", False), ("maybe", None), ("", None), (True, True)]
    )
    def test_a_flag_is_true_false_or_unknown(self, tmp_path: Path, given: Any, meant: bool | None) -> None:
        kept, _ = read(write_parquet(tmp_path / "a.parquet", [review(verified_purchase=given)]))
        assert kept[0]["verified"] is meant

    def test_votes_that_are_no_numbers_are_unknown_and_cost_no_row(self, tmp_path: Path) -> None:
        kept, rejected = read(write_parquet(tmp_path / "a.parquet", [review(helpful_votes="many", total_votes=None)]))
        assert (kept[0]["helpful_votes"], kept[0]["total_votes"], rejected) == (None, None, [])


class TestReviewIds:
    def test_a_missing_id_is_the_same_wherever_the_review_stands(self, tmp_path: Path) -> None:
        ours, other = review(review_id="", review_body="Ours"), review(review_id="", review_body="Other")
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir()
        (tmp_path / "one" / "a.csv").write_text(delimited([ours, other]))
        write_parquet(tmp_path / "two" / "z.parquet", [{**other, "review_id": None}, BASE, {**ours, "review_id": None}])
        first = {r["text"]: r["review_id"] for r in read(tmp_path / "one")[0]}
        second = {r["text"]: r["review_id"] for r in read(tmp_path / "two")[0]}
        assert first["Ours"] == second["Ours"] != first["Other"] == second["Other"]
        assert all(first.values())
        assert second["Bright lamp"] == "R1"

    def test_a_source_without_the_column_gives_every_review_an_id(self, tmp_path: Path) -> None:
        rows = [{k: v for k, v in review(review_body=f"Text {i}").items() if k != "review_id"} for i in range(20)]
        kept, _ = read(write_parquet(tmp_path / "a.parquet", rows))
        assert len({r["review_id"] for r in kept}) == 20


class TestPlan:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A parquet file of ten row groups between two text files; parts may be as small as a row group."""
        monkeypatch.setattr("tasks.sources.partitions.PART_MIN_BYTES", 1)
        path = tmp_path / "input"
        path.mkdir()
        (path / "a.csv").write_text(delimited([review(review_id=f"A{i}") for i in range(7)]))
        write_parquet(path / "b.parquet", [review(review_id=f"B{i:03}") for i in range(95)], row_group_size=10)
        (path / "c.tsv").write_text(delimited([review(review_id=f"C{i}") for i in range(7)], "\t"))
        return path

    def test_every_row_is_in_one_part_and_in_order(self, folder: Path) -> None:
        parts = sources.plan(sources.discover(str(folder), "amazon-us"))
        assert len(parts) > 3
        kept, rejected = read(folder)
        wanted = [f"A{i}" for i in range(7)] + [f"B{i:03}" for i in range(95)] + [f"C{i}" for i in range(7)]
        assert [r["review_id"] for r in kept] == wanted
        assert rejected == []

    def test_the_cut_depends_on_the_data_alone(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def cut(path: Path) -> list[list[tuple[str, tuple[int, ...], int]]]:
            parts = sources.plan(sources.discover(str(path), "amazon-us"))
            return [[(u.file.name, u.row_groups, u.first_row) for u in part] for part in parts]

        here = cut(folder)
        moved = tmp_path / "elsewhere"
        shutil.copytree(folder, moved)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("os.cpu_count", lambda: 64)
        monkeypatch.setenv("POLARS_MAX_THREADS", "1")
        assert cut(moved) == here

    def test_the_digest_follows_names_content_and_profile_not_the_place(self, folder: Path, tmp_path: Path) -> None:
        first = sources.discover(str(folder), "amazon-us")
        moved = tmp_path / "elsewhere"
        shutil.copytree(folder, moved)
        assert sources.discover(str(moved), "amazon-us").digest == first.digest
        (moved / "a.csv").write_text((moved / "a.csv").read_text().replace("Bright", "Dim"))
        assert sources.discover(str(moved), "amazon-us").digest != first.digest
