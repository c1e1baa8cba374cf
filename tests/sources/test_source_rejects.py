"""Unusable input: rows are rejected with a reason, files and profiles refused with one."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest

from tasks import sources
from tasks.core.errors import InputError, ProfileError
from tests.support.raw_files import BASE, DAY, delimited, read, read_with_damage, review, write_parquet


class TestRejects:
    CASES = (
        ({"customer_id": ""}, "no user_id"),
        ({"customer_id": "  "}, "no user_id"),
        ({"product_id": ""}, "no item_id"),
        ({"star_rating": ""}, "no rating"),
        ({"star_rating": "five"}, "rating is not a number"),
        ({"star_rating": "nan"}, "rating is not a number"),
        ({"star_rating": "0"}, "rating outside 1..5"),
        ({"star_rating": "5.5"}, "rating outside 1..5"),
        ({"star_rating": "inf"}, "rating outside 1..5"),
        ({"review_date": ""}, "no timestamp"),
        ({"review_date": "yesterday"}, "timestamp not understood"),
        ({"review_date": "2015-02-30"}, "timestamp not understood"),
    )

    @pytest.mark.parametrize(("change", "reason"), CASES)
    @pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
    def test_an_unusable_row_is_kept_with_its_reason_place_and_content(
        self, tmp_path: Path, change: dict[str, str], reason: str, ending: str
    ) -> None:
        rows = [BASE, review(review_id="bad", **change), review(review_id="R2")]
        path = tmp_path / f"a.{ending}"
        if ending == "parquet":
            write_parquet(path, [{k: v or None for k, v in r.items()} for r in rows])
        else:
            path.write_text(delimited(rows, "," if ending == "csv" else "\t"))
        kept, rejected = read(tmp_path)
        assert [r["review_id"] for r in kept] == ["R1", "R2"]
        assert [(r["reason"], r["source"], r["row"]) for r in rejected] == [(reason, path.name, 1)]
        assert json.loads(rejected[0]["record"])["review_id"] == "bad"

    def test_every_row_is_kept_or_rejected_with_its_row_number_and_file(self, tmp_path: Path) -> None:
        bad = {f"bad{i}": reason for i, (_, reason) in enumerate(self.CASES)}
        rows = []
        for i, (change, _) in enumerate(self.CASES):
            rows += [review(), review(review_id=f"bad{i}", **change)]
        (tmp_path / "sub").mkdir()
        (tmp_path / "a.csv").write_text(delimited(rows))
        (tmp_path / "sub" / "b.tsv").write_text(delimited(rows, "\t", header=False))
        write_parquet(tmp_path / "c.parquet", [{k: v or None for k, v in r.items()} for r in rows], row_group_size=5)
        kept, rejected = read(tmp_path)
        assert len(kept) + len(rejected) == 3 * len(rows)
        for name in ("a.csv", "sub/b.tsv", "c.parquet"):
            here = [r for r in rejected if r["source"] == name]
            assert [r["row"] for r in here] == list(range(1, len(rows), 2)), name
            assert [bad[rows[r["row"]]["review_id"]] for r in here] == [r["reason"] for r in here], name

    def test_lines_with_too_many_or_too_few_fields_are_rejected_by_their_row_number(self, tmp_path: Path) -> None:
        good = delimited([review(review_body="two\nlines")], header=False)
        bad_date = delimited([review(review_date="?")], header=False)
        many, few = good.rstrip("\n") + ",extra\n", "US,12\n"
        text = delimited([]) + good + many + "\n" + bad_date + few + good + many
        (tmp_path / "a.csv").write_text(text)
        kept, rejected = read(tmp_path)
        assert len(kept) == 2
        assert [(r["row"], r["reason"]) for r in rejected] == [
            (1, "16 fields in the line"),
            (2, "timestamp not understood"),
            (3, "2 fields in the line"),
            (5, "16 fields in the line"),
        ]
        assert "extra" in rejected[0]["record"]

    def test_bad_lines_of_a_file_without_a_header_are_numbered_from_its_first_line(self, tmp_path: Path) -> None:
        good = delimited([BASE], "\t", header=False)
        (tmp_path / "a.tsv").write_text(good + "US\t12\n" + good)
        kept, rejected = read(tmp_path)
        assert len(kept) == 2
        assert [(r["row"], r["reason"]) for r in rejected] == [(1, "2 fields in the line")]


class TestRefusals:
    """What cannot be read is refused before any work; the command line's view of it is in tests/integration."""

    @pytest.mark.parametrize("column", ["star_rating", "review_body", "review_date", "customer_id", "product_id"])
    @pytest.mark.parametrize("value", [["x"], {"a": 1}, dt.time(10)])
    def test_a_column_of_a_type_that_cannot_be_mapped(self, tmp_path: Path, column: str, value: object) -> None:
        write_parquet(tmp_path / "a.parquet", [review(**{column: value})])
        with pytest.raises(InputError, match=column):
            read(tmp_path)

    def test_damaged_row_groups_are_named_when_they_are_read(self, tmp_path: Path) -> None:
        rows = [review(review_id=f"R{i}", review_body=f"text {i}" * 9) for i in range(400)]
        path = write_parquet(tmp_path / "a.parquet", rows, compression="zstd")
        data = bytearray(path.read_bytes())
        data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)
        path.write_bytes(bytes(data))
        kept, rejected, damage = read_with_damage(tmp_path)
        assert (kept, rejected) == ([], [])
        assert damage[0].startswith("damaged data: 400 rows of row group 0 cannot be read")

    def test_a_near_miss_in_a_column_name_is_suggested(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text(delimited([BASE]).replace("review_body", "review_bdy"))
        with pytest.raises(InputError, match=r"review_body \(did you mean review_bdy\?\)"):
            read(tmp_path)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[1, 2]",
            "columns: {",
            "description: x\ncolumns: {rating: stars}\n",
            "description: x\ncolumns: {stars: stars}\n",
            "description: x\ncolums: {}\n",
        ],
    )
    def test_a_malformed_profile_is_named(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        with pytest.raises(ProfileError) as refused:
            sources.load_profile(str(path))
        assert refused.value.where == str(path)
        assert refused.value.fix

    def test_a_profile_that_is_not_utf8_text_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.yaml"
        path.write_bytes(b"description: caf\xe9\n")
        with pytest.raises(ProfileError):
            sources.load_profile(str(path))

    def test_a_profile_of_ones_own_is_enough_for_a_new_source(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text(
            "description: mine\ncolumns: {user_id: who, item_id: what, rating: stars, text: words, timestamp: day}\n"
            'timestamp: {formats: ["%d.%m.%Y"]}\n'
        )
        (tmp_path / "a.csv").write_text("who,what,stars,words,day\nann,lamp,4,Fine,31.08.2015\n")
        (row,), rejected = read(tmp_path / "a.csv", str(tmp_path / "mine.yaml"))
        assert (row["user_id"], row["item_id"], row["timestamp"], rejected) == ("ann", "lamp", DAY, [])
