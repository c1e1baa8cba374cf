"""Records that are odd, wrong or hostile: each is a row or a reject with its reason, and none stops the reading."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.core.errors import InputError
from tasks.sources import readers
from tests.support.accounts import Outcome, read_all
from tests.support.raw_files import BASE, delimited, review

PLAIN = {"reviewerID": "u", "asin": "B1", "overall": 4, "reviewText": "Fine", "unixReviewTime": 1_400_000_000}


def lines(*rows: Any) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def of_lines(path: Path, *rows: Any, dataset: str = "amazon-2014") -> Outcome:
    (path / "a.jsonl").write_text(lines(*rows))
    return read_all(path / "a.jsonl", dataset)


class TestValues:
    @pytest.mark.parametrize("stars", ["٥", "５", "Ⅴ", "⑤", "5 stars", "1_0", "0x5", "4,5"])
    def test_stars_are_numbers_in_ascii_digits(self, tmp_path: Path, stars: str) -> None:
        (tmp_path / "a.csv").write_text(delimited([review(star_rating=stars), BASE]))
        assert read_all(tmp_path / "a.csv").reasons == [(0, "rating is not a number")]
        assert of_lines(tmp_path, {**PLAIN, "overall": stars}, PLAIN).reasons == [(0, "rating is not a number")]

    @pytest.mark.parametrize(
        ("stars", "reason"),
        [
            (0, "rating outside 1..5"),
            (5.5, "rating outside 1..5"),
            (-3, "rating outside 1..5"),
            (10**30, "rating outside 1..5"),
            (math.inf, "rating outside 1..5"),
            (math.nan, "no rating"),
            (True, "rating is not a number"),
            ([5], "rating is not a number"),
            ({"stars": 5}, "rating is not a number"),
            (None, "no rating"),
        ],
    )
    def test_stars_lie_between_one_and_five(self, tmp_path: Path, stars: Any, reason: str) -> None:
        assert of_lines(tmp_path, {**PLAIN, "overall": stars}).reasons == [(0, reason)]

    @pytest.mark.parametrize(
        ("seconds", "reason"),
        [
            (599_616_000, "timestamp before 1990-01-01"),  # 1989
            (-1, "timestamp before 1990-01-01"),
            (4_102_444_800, "timestamp in the future"),
            (1_400_000_000_000, "timestamp in the future"),  # milliseconds taken for seconds
            (10**30, "timestamp not understood"),
            (math.inf, "timestamp not understood"),
            (True, "timestamp not understood"),
            ([1_400_000_000], "timestamp not understood"),
            ("May", "timestamp not understood"),
            (None, "no timestamp"),
        ],
    )
    def test_times_lie_in_the_period_that_is_set(self, tmp_path: Path, seconds: Any, reason: str) -> None:
        assert of_lines(tmp_path, {**PLAIN, "unixReviewTime": seconds}).reasons == [(0, reason)]

    def test_the_period_is_a_setting_and_both_its_days_belong_to_it(self, tmp_path: Path) -> None:
        days = ["2010-01-01", "2009-12-31", "2012-06-30", "2012-07-01"]
        (tmp_path / "a.csv").write_text(delimited([review(review_id=day, review_date=day) for day in days]))
        found = read_all(tmp_path, "amazon-us", "ingest.earliest=2010-01-01", "ingest.latest=2012-06-30")
        assert [row["review_id"] for row in found.kept] == [days[0], days[2]]
        assert found.reasons == [(1, "timestamp before 2010-01-01"), (3, "timestamp in the future")]

    def test_prices_that_are_no_finite_numbers_are_unknown_and_the_item_stays(self, tmp_path: Path) -> None:
        prices = [math.inf, -math.inf, math.nan, "$1e999", "inf", -1, True, [3], "$1,299.50", 0]
        records = [{"asin": f"B{i}", "price": price} for i, price in enumerate(prices)]
        (tmp_path / "a.json").write_text(lines(*records) + "{'asin': 'P', 'price': 1e999}\n")
        found = read_all(tmp_path, "amazon-2014", kind="items")
        assert [item["price"] for item in found.kept] == [None] * 8 + [1299.5, 0.0, None]
        assert (found.rejected, found.damage) == ([], {})


class TestText:
    def test_bytes_that_are_no_utf8_and_halves_of_characters_become_a_sign_for_it(self, tmp_path: Path) -> None:
        csv = delimited([review(review_body="CAFE")]).encode()
        for i, wrong in enumerate((b"caf\xe9", b"caf\xed\xa0\x80", b"caf\xff\xfe", b"caf\xf0\x9f")):
            (tmp_path / f"{i}.csv").write_bytes(csv.replace(b"CAFE", wrong))
            (tmp_path / f"{i}.jsonl").write_bytes(lines(review(review_body="CAFE")).encode().replace(b"CAFE", wrong))
        (tmp_path / "u.jsonl").write_text(lines(review(review_body="caf\ud83d")))
        found = read_all(tmp_path)
        assert len(found.kept) == 9
        assert {row["text"].rstrip("\ufffd") for row in found.kept} == {"caf"}

    def test_nul_bytes_stay_for_clean_to_remove(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text(delimited([review(review_body="a\0b"), BASE]))
        (tmp_path / "b.tsv").write_text(delimited([review(review_body="a\0b"), BASE], "\t", quoted=False))
        (tmp_path / "c.jsonl").write_text(lines(review(review_body="a\0b")) + '{"review_body": "\0"}\n')
        found = read_all(tmp_path)
        assert [row["text"] for row in found.kept] == ["a\0b", "Bright lamp"] * 2 + ["a\0b"]
        assert found.reasons == [(1, "no user_id")]

    def test_a_file_of_nuls_or_of_wide_characters_is_refused(self, tmp_path: Path) -> None:
        for data in (b"\0" * 100, delimited([BASE]).encode("utf-16-le")):
            (tmp_path / "a.csv").write_bytes(data)
            with pytest.raises(InputError, match="not UTF-8 or similar text"):
                read_all(tmp_path)

    @pytest.mark.parametrize("name", [" review_body ", '"review_body"', '" review_body"'])
    def test_blanks_and_quotes_around_a_columns_name_do_not_lose_it(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "a.csv").write_text(delimited([BASE]).replace("review_body", name))
        assert read_all(tmp_path).kept[0]["text"] == "Bright lamp"


class TestLongRecords:
    LONG = "x" * (3 << 20)
    SMALL = ("amazon-us", "ingest.max_record_mb=1")

    def test_a_line_of_json_over_the_limit_is_rejected_alone(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text(lines(BASE, review(review_body=self.LONG), review(review_id="R2")))
        found = read_all(tmp_path, *self.SMALL)
        assert [row["review_id"] for row in found.kept] == ["R1", "R2"]
        assert found.reasons == [(1, "record of 3 MB; the limit is 1 MB")]

    def test_so_is_an_element_of_an_array(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text(json.dumps([BASE, review(review_body=self.LONG), review(review_id="R2")]))
        found = read_all(tmp_path, *self.SMALL)
        assert [row["review_id"] for row in found.kept] == ["R1", "R2"]
        assert found.reasons == [(1, "record of 3 MB; the limit is 1 MB")]

    def test_a_csv_is_read_up_to_the_megabytes_that_it_is_in(self, tmp_path: Path) -> None:
        rows = [review(review_id=f"R{i}") for i in range(30_000)]
        text = delimited(rows)
        (tmp_path / "a.csv").write_text(text + delimited([review(review_body=self.LONG), *rows], header=False))
        found = read_all(tmp_path, *self.SMALL)
        assert [row["review_id"] for row in found.kept] == [f"R{i}" for i in range(len(found.kept))]
        assert len(text) - (1 << 20) < len(found.kept) / len(rows) * len(text) <= len(text)
        assert "a record longer than 1 MB, or a quote that is never closed" in found.damage["a.csv"]

    def test_whoever_has_such_records_raises_the_limit(self, tmp_path: Path) -> None:
        rows = [BASE, review(review_body=self.LONG * 12), review(review_id="R2")]
        (tmp_path / "a.csv").write_text(delimited(rows))
        assert "longer than 16 MB" in read_all(tmp_path).damage["a.csv"]
        assert len(read_all(tmp_path, "amazon-us", "ingest.max_record_mb=40").kept) == 3


class TestRecords:
    def test_json_lines_that_are_no_objects_are_rejected_by_their_line(self, tmp_path: Path) -> None:
        found = of_lines(tmp_path, PLAIN, [PLAIN], "12", '"text"', "null", "{", "", PLAIN)
        assert len(found.kept) == 2
        assert found.reasons[:4] == [
            (1, "a JSON array, not an object"),
            (2, "a JSON number, not an object"),
            (3, "a JSON string, not an object"),
            (4, "JSON null, not an object"),
        ]
        assert [row for row, _ in found.reasons] == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize("last_column", ["review_body", "review_date"])
    def test_a_quote_that_is_never_closed_cannot_swallow_the_file_in_silence(
        self, tmp_path: Path, last_column: str
    ) -> None:
        names = [c for c in BASE if c != last_column] + [last_column]
        rows = [f'"{i}"' if c == "review_id" else BASE[c] for i in range(9) for c in names]
        text = [",".join(rows[i : i + len(names)]) for i in range(0, len(rows), len(names))]
        text[4] = text[4].removesuffix(BASE[last_column]) + '"' + BASE[last_column]
        text[5:] = [line.replace('"', "") for line in text[5:]]  # no later quote closes it
        (tmp_path / "a.csv").write_text("\n".join([",".join(names), *text]))
        found = read_all(tmp_path)
        assert [row["review_id"] for row in found.kept] == ["0", "1", "2", "3"]
        assert found.reasons == [(4, "a quote that opens here is never closed")]
        assert found.damage == {"a.csv": "a quote that opens in row 4 is never closed"}

    def test_what_is_no_number_is_nobodys_id(self, tmp_path: Path) -> None:
        assert of_lines(tmp_path, {**PLAIN, "reviewerID": math.nan}).reasons == [(0, "no user_id")]
        assert of_lines(tmp_path, {**PLAIN, "asin": math.inf}).reasons == [(0, "no item_id")]

    @pytest.mark.parametrize("missing", ["NaN", "Infinity", "-Infinity"])
    @pytest.mark.parametrize("block", [1, 1 << 20])
    def test_what_is_no_number_is_no_text_either_whatever_its_neighbours(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, block: int
    ) -> None:
        monkeypatch.setattr(readers, "BLOCK_BYTES", block)
        lacking = json.dumps({**PLAIN, "summary": "?", "reviewText": "?", "helpful": "?"}).replace('"?"', missing)
        odd = [lacking, {**PLAIN, "summary": "One", "helpful": [1, 2]}, lacking, {**PLAIN, "reviewText": 2.5}]
        found = of_lines(tmp_path, *odd, lacking.replace('"u"', missing))
        assert [(row["title"], row["text"]) for row in found.kept] == [("", ""), ("One", "Fine"), ("", ""), ("", "2.5")]
        assert [row["helpful_votes"] for row in found.kept] == [None, 1, None, None]
        assert found.reasons == [(4, "no user_id")]

    def test_votes_are_a_pair_of_whole_numbers_or_unknown(self, tmp_path: Path) -> None:
        pairs = [[2, 3], "[2, 3]", [2], [], [2, 3, 4], [2.5, 3], ["2", "3"], [[2], [3]], {"a": 2}, 2, True, None]
        found = of_lines(tmp_path, *({**PLAIN, "helpful": pair} for pair in pairs))
        votes = [(row["helpful_votes"], row["total_votes"]) for row in found.kept]
        assert votes == [(2, 3)] * 2 + [(None, None)] * 10


ODD = st.sampled_from(
    [None, 3, 4.5, "5", " 4 ", True, False, "", "x", [1, 2], [], ["a"], [[1], [2]], {"a": 1}, 10**25, "true"]
)


@given(
    records=st.lists(
        st.dictionaries(st.sampled_from([*PLAIN, "vote", "verified", "summary", "helpful"]), ODD, max_size=6),
        max_size=5,
    ),
    dataset=st.sampled_from(["amazon-2014", "amazon-2018"]),
)
def test_what_becomes_of_a_record_does_not_depend_on_those_beside_it(
    records: list[dict[str, Any]], dataset: str
) -> None:
    records = [{**PLAIN, **record} for record in records]
    with TemporaryDirectory() as folder:
        together = of_lines(Path(folder), PLAIN, *records, dataset=dataset)
        alone = [of_lines(Path(folder), record, dataset=dataset) for record in records]
    assert together.kept[1:] == [row for found in alone for row in found.kept]
    assert [why for _, why in together.reasons] == [why for found in alone for _, why in found.reasons]


HEADER = b"customer_id,product_id,star_rating,review_body,review_date\n"
PIECES = st.sampled_from(
    [
        b'"',
        b'""',
        b",",
        b"\n",
        b"\r\n",
        b"\r",
        b"\0",
        b"\t",
        b"1,2,5,x,2015-01-01\n",
        b'1,2,5,"x\ny",2015-01-01\n',
        b"\xff",
        b"\xef\xbb\xbf",
        b" ",
    ]
)


@given(data=st.lists(PIECES | st.binary(max_size=6), max_size=15).map(b"".join), ending=st.sampled_from(["csv", "tsv"]))
@example(data=b'1,2,5,x,"2015', ending="csv")
@example(data=b"1,2,5,x,2015-01-01", ending="csv")
def test_any_bytes_in_a_delimited_file_are_rows_rejects_or_told(data: bytes, ending: str) -> None:
    header = HEADER if ending == "csv" else HEADER.replace(b",", b"\t")
    with TemporaryDirectory() as folder:
        (Path(folder) / f"a.{ending}").write_bytes(header + data)
        read_all(folder)


RECORD = json.dumps(BASE).encode()
JSON = st.sampled_from(
    [RECORD, b"{}", b"[", b"]", b",", b"\n", b'"', b"\\", b"\0", b"{", b"}", b"12", b"\xff", b"null"]
)


@given(data=st.lists(JSON | st.binary(max_size=6), max_size=15).map(b"".join), array=st.booleans())
def test_any_bytes_in_a_json_file_are_rows_rejects_or_told(data: bytes, array: bool) -> None:
    with TemporaryDirectory() as folder:
        (Path(folder) / "a.json").write_bytes((b"[" + RECORD + b"," if array else RECORD + b"\n") + data)
        read_all(folder)


@given(
    data=st.binary(max_size=60),
    ending=st.sampled_from(["csv", "tsv", "txt", "json", "jsonl", "parquet", "csv.gz", "zip"]),
)
@example(data=b"PAR1PAR1", ending="parquet")
@example(data=b"\x1f\x8b\x08\0", ending="csv.gz")
@example(data=b"PK\x05\x06" + bytes(18), ending="zip")
def test_a_file_of_any_bytes_is_read_or_refused_in_words(data: bytes, ending: str) -> None:
    with TemporaryDirectory() as folder:
        (Path(folder) / f"a.{ending}").write_bytes(data)
        with suppress(InputError):
            read_all(folder)
