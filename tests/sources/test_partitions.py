"""However a file is cut into parts, packed or written, it gives the same rows and the same rejects in the same rows."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import sources
from tasks.settings import load_settings
from tasks.sources import delimited as delimited_text
from tasks.sources.partitions import Unit
from tasks.sources.profiles import Quoting
from tasks.sources.text_encoding import as_utf8
from tests.support.accounts import PACK, Outcome, read, read_all, zipped
from tests.support.raw_files import DAY, HEADER, delimited, review, write_parquet

TEXTS = ["Plain", "Two\nlines", 'Three,\n\n"quoted"\r\nlines', '"', "", "é★😀\u2028", ',"\n",', "x" * 300]
ROWS = [
    review(review_id=f"R{i}", review_body=TEXTS[i % len(TEXTS)], star_rating="five" if i % 5 == 4 else str(1 + i % 5))
    for i in range(60)
]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a few kilobytes are cut as large ones are."""
    monkeypatch.setattr("tasks.sources.partitions.PART_MIN_BYTES", 1)


def same(one: Outcome, other: Outcome) -> bool:
    return (one.kept, one.rejected, one.damage) == (other.kept, other.rejected, other.damage)


class TestQuotedCsv:
    @pytest.mark.parametrize("newline", ["\n", "\r\n"])
    @pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
    @pytest.mark.parametrize("target", [1, 50, 400, 3000])
    def test_many_ranges_give_what_the_uncut_file_gives(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newline: str, bom: bytes, target: int
    ) -> None:
        text = delimited(ROWS) + "US,only,three\n" + delimited(ROWS, header=False)
        (tmp_path / "a.csv").write_bytes(bom + text.replace("\n", newline).encode())
        whole = read_all(tmp_path)
        assert (len(whole.kept), len(whole.rejected), whole.units) == (96, 25, 1)
        monkeypatch.setattr("tasks.sources.partitions.PART_MIN_BYTES", 1)
        monkeypatch.setattr("tasks.sources.partitions.SCAN_BYTES", 97)
        monkeypatch.setattr("tasks.sources.partitions._target", lambda _: target)
        cut = read_all(tmp_path)
        assert cut.units >= min(50, len(text) // target // 2)
        assert same(cut, whole)

    @pytest.mark.parametrize("stray", ['5" wide', 'a "b" c', '"a"b"c"'])
    def test_a_stray_quote_forbids_to_cut(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stray: str) -> None:
        lines = delimited(ROWS).replace("Plain", stray)
        (tmp_path / "a.csv").write_text(lines)
        whole = read_all(tmp_path)
        monkeypatch.setattr("tasks.sources.partitions.PART_MIN_BYTES", 1)
        cut = read_all(tmp_path)
        assert cut.units == 1
        assert same(cut, whole)

    @pytest.mark.usefixtures("small_parts")
    def test_a_quote_that_is_never_closed_forbids_it_too(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text(delimited(ROWS[:40]) + 'US,"12,R,never closed\n')
        found = read_all(tmp_path)
        assert found.units == 1
        assert found.rejected[-1] == ("a.csv", 40, "a quote that opens here is never closed")
        assert found.damage == {"a.csv": "a quote that opens in row 40 is never closed"}


FIELD = st.text(st.sampled_from('a",\r\n é'), max_size=6)


@given(fields=st.lists(FIELD, min_size=4, max_size=20), target=st.integers(1, 60), scan=st.integers(1, 40))
def test_any_quoted_fields_survive_any_cut(
    tmp_path_factory: pytest.TempPathFactory, fields: list[str], target: int, scan: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.csv"
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")  # the default leaves \r without quotes
    writer.writerows([HEADER, *(review(review_id=f"R{i}", review_body=f).values() for i, f in enumerate(fields))])
    path.write_bytes(text.getvalue().encode())
    whole = read_all(path)
    assert [row["review_id"] for row in whole.kept] == [f"R{i}" for i in range(len(fields))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.sources.partitions.PART_MIN_BYTES", 1)
        patch.setattr("tasks.sources.partitions.SCAN_BYTES", scan)
        patch.setattr("tasks.sources.partitions._target", lambda _: target)
        assert same(read_all(path), whole)


USED = ("review_id", "customer_id", "product_id", "star_rating", "review_body", "review_date")


@pytest.mark.parametrize("ending", ["jsonl", "tsv", pytest.param("noheader.tsv", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("newline", ["\n", pytest.param("\r\n", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.nightly)])
def test_a_file_of_lines_may_be_cut_at_any_byte(tmp_path: Path, ending: str, newline: str, every: int) -> None:
    """Also within a character and beside the end of a line."""
    rows = [review(review_body="é★"), review(star_rating="?"), review(review_id="R3")]
    short = [{k: v for k, v in row.items() if k in USED} for row in rows]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in short) + "\n12\n"
    if ending != "jsonl":
        text = delimited(rows, "\t", quoted=False, header=ending == "tsv") + "US\t12\n"
    data = text.replace("\n", newline).encode()
    (tmp_path / f"a.{ending}").write_bytes(data)
    source = sources.discover(str(tmp_path), "amazon-us")
    config = load_settings().ingest
    recipe = sources.Recipe("reviews", source.profile, config, sources.Period.of(config.earliest, config.latest))
    (file,) = source.files
    whole = read([(Unit(file),)], recipe, {})
    assert [row["review_id"] for row in whole.kept] == ["R1", "R3"]
    assert [row for row, _ in whole.reasons] == [1, 3]
    special = [
        at for at in range(1, file.size) if not data[at - 1 : at + 1].isascii() or b"\n" in data[at - 2 : at + 2]
    ]
    for at in sorted({*special, *range(1, file.size, every)}):
        parts = [(Unit(file, start=0, end=at),), (Unit(file, start=at, end=file.size),)]
        assert same(read(parts, recipe, {}), whole), at


SOME = [review(review_id="R1"), review(review_id="R2", star_rating="9"), review(review_id="R3", review_body="é★")]
WRITTEN = {
    "csv": delimited(SOME),
    "tsv": delimited(SOME, "\t", quoted=False),
    "jsonl": "".join(json.dumps(row) + "\n" for row in SOME),
    "json": json.dumps(SOME, indent=1, ensure_ascii=False),
    "txt": "".join(json.dumps(row) + "\n" for row in SOME),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    found = read_all(write_parquet(tmp_path_factory.mktemp("plain") / "a.parquet", SOME))
    assert found.reasons == [(1, "rating outside 1..5")]
    return found.kept


class TestPackings:
    @pytest.mark.parametrize("ending", WRITTEN)
    @pytest.mark.parametrize("packing", ["", ".gz", ".bz2", ".zst", ".zip"])
    @pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
    @pytest.mark.parametrize("newline", ["\n", "\r\n"])
    def test_every_format_in_every_packing(
        self, tmp_path: Path, expected: list[dict[str, Any]], ending: str, packing: str, bom: bytes, newline: str
    ) -> None:
        data = bom + WRITTEN[ending].replace("\n", newline).encode()
        packed = zipped({f"in/b.{ending}": data}) if packing == ".zip" else PACK.get(packing, bytes)(data)
        (tmp_path / f"a.{ending}{packing}").write_bytes(packed)
        found = read_all(tmp_path)
        assert (found.kept, found.reasons, found.damage) == (expected, [(1, "rating outside 1..5")], {})

    @pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
    @pytest.mark.parametrize("packing", PACK)
    def test_files_packed_one_after_the_other_are_one(
        self, tmp_path: Path, expected: list[dict[str, Any]], ending: str, packing: str
    ) -> None:
        data = WRITTEN[ending].encode()
        pieces = [data[:100], data[100:101], b"", data[101:]]
        (tmp_path / f"a.{ending}{packing}").write_bytes(b"".join(PACK[packing](piece) for piece in pieces))
        assert read_all(tmp_path).kept == expected

    def test_what_a_file_is_packed_in_is_told_by_its_bytes(
        self, tmp_path: Path, expected: list[dict[str, Any]]
    ) -> None:
        (tmp_path / "a.csv").write_bytes(gzip.compress(WRITTEN["csv"].encode()))
        (tmp_path / "b.csv.gz").write_bytes(WRITTEN["csv"].encode())
        assert read_all(tmp_path).kept == expected * 2

    def test_every_member_of_a_zip_is_read_in_the_order_of_names(self, tmp_path: Path) -> None:
        members = {f"{name}.csv": delimited([review(review_id=name)]).encode() for name in "cab"}
        (tmp_path / "a.zip").write_bytes(zipped({**members, "readme.md": b"#", "empty.csv": b""}))
        found = read_all(tmp_path)
        assert [row["review_id"] for row in found.kept] == ["a", "b", "c"]
        assert found.damage == {"a.zip/empty.csv": "the file is empty"}

    def test_parquet_is_not_packed_again(self, tmp_path: Path) -> None:
        data = write_parquet(tmp_path / "a.parquet", SOME).read_bytes()
        (tmp_path / "b.parquet.gz").write_bytes(gzip.compress(data))
        assert read_all(tmp_path).damage == {"b.parquet.gz": "a parquet file inside gzip"}


@pytest.mark.parametrize(
    ("encoding", "body"), [("windows-1252", "Café – “nice”"), ("gb18030", "很好|用"), ("shift_jis", "表示")]
)
def test_a_profile_may_name_another_encoding(tmp_path: Path, encoding: str, body: str) -> None:
    profile = Path("conf/datasets/amazon-us.yaml").read_text() + f"encoding: {encoding}\n"
    (tmp_path / "mine.yaml").write_text(profile)
    bad = delimited([review(review_body=body)], header=False).rstrip("\n") + f",{body}\n"
    (tmp_path / "a.csv").write_bytes((delimited([review(review_body=body)]) + bad).encode(encoding))
    found = read_all(tmp_path / "a.csv", str(tmp_path / "mine.yaml"))
    assert [(row["text"], row["timestamp"]) for row in found.kept] == [(body, DAY)]
    assert found.reasons == [(1, "16 fields in the line")]


@given(
    pieces=st.lists(st.binary(max_size=4) | st.sampled_from(["é".encode(), "★".encode(), "😀".encode()]), max_size=8),
    size=st.integers(1, 9),
    encoding=st.sampled_from(["utf-8", "UTF8", "latin-1", "gb18030"]),
)
def test_text_is_decoded_alike_however_it_is_read(pieces: list[bytes], size: int, encoding: str) -> None:
    class Dribble(io.BytesIO):
        def read(self, _: int | None = -1) -> bytes:
            return super().read(size)

    data = b"".join(pieces)
    text = delimited_text.Text(as_utf8(Dribble(data), encoding), Quoting(quote='"', delimiter=","), 2)
    read = b"".join(iter(lambda: text.read(7), b"")).decode()
    plain = data.removeprefix(b"\xef\xbb\xbf") if size > 2 else data
    assert read == plain.decode(encoding, "replace") + "\n" * text.unfinished + text.mark + "\n"
