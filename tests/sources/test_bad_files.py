"""Files that are damaged, dangerous or not reviews: their readable rows are kept, the rest is reported or refused."""

from __future__ import annotations

import gzip
import json
import os
import random
import stat
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import InputError
from tasks.sources import streams
from tests.support.accounts import PACK, Outcome, read_all, zipped
from tests.support.raw_files import BASE, DAY, delimited, review, write_parquet

ROWS = [review(review_id=f"R{i:03}", review_body=f"Text {i} " + "é★\u2003" * (i % 7)) for i in range(200)]
CUT = "cut off: the file ends within this record"
TEXTS = {
    "csv": delimited(ROWS),
    "tsv": delimited(ROWS, "\t", quoted=False),
    "jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "json": json.dumps(ROWS),
}


def ids(found: Outcome) -> list[str]:
    return [row["review_id"] for row in found.kept]


def folder(path: Path, **files: bytes) -> Path:
    """A folder with one good file, `good.csv`, and others."""
    path.mkdir()
    (path / "good.csv").write_text(delimited([BASE]))
    for name, data in files.items():
        (path / name.replace("_", ".")).write_bytes(data)
    return path


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as error:
        read_all(path, "amazon-us", *overrides)
    assert error.value.where
    assert error.value.fix
    assert error.value.exit_status == 2
    return error.value.what


class TestCutOff:
    @pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
    @pytest.mark.parametrize("packing", [".gz", ".bz2", ".zst"])
    @pytest.mark.parametrize("share", [0.4, 0.7, 0.99])
    def test_a_packed_file_gives_its_whole_records_and_rejects_the_one_that_was_cut(
        self, tmp_path: Path, ending: str, packing: str, share: float
    ) -> None:
        noisy = random.Random(1).sample(range(10**9), 4000)  # so that bzip2 and zstd have several blocks
        rows = [review(review_id=f"R{n}", review_body=f"{n:x}" * 20) for n in noisy]
        text = delimited(rows, "\t", quoted=False) if ending == "tsv" else delimited(rows)
        if ending == "jsonl":
            text = "".join(json.dumps(row) + "\n" for row in rows)
        packed = PACK[packing](text.encode())
        (tmp_path / f"a.{ending}{packing}").write_bytes(packed[: int(share * len(packed))])
        found = read_all(tmp_path)
        n = len(found.kept)
        assert ids(found) == [row["review_id"] for row in rows[:n]]
        assert [row["text"] for row in found.kept] == [row["review_body"] for row in rows[:n]]
        # A cut between two records, or in the header's line break, leaves none that is cut.
        assert found.reasons in ([(n, CUT)], [])
        (said,) = found.damage.values()
        assert "data cut off after" in said

    @pytest.mark.parametrize("back", range(8, 60))
    def test_wherever_in_the_last_lines_a_csv_is_cut_no_half_value_is_taken_for_a_whole_one(
        self, tmp_path: Path, back: int
    ) -> None:
        rows = [review(review_id=f"R{i}", review_body='Two\n"lines"') for i in range(3)]
        text = delimited(rows).encode()
        (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text[:-back], compresslevel=0)[:-8])
        found = read_all(tmp_path)
        assert {(row["text"], row["timestamp"]) for row in found.kept} == {('Two\n"lines"', DAY)}
        assert (ids(found), found.reasons) == (["R0", "R1"], [(2, CUT)])

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
    def test_a_json_array_gives_its_whole_elements(self, tmp_path: Path, share: float) -> None:
        (tmp_path / "a.json").write_text(TEXTS["json"][: 1 + int(share * len(TEXTS["json"]))])
        found = read_all(tmp_path)
        n = len(found.kept)
        assert ids(found) == [f"R{i:03}" for i in range(n)]
        assert [row for row, _ in found.reasons] == ([n] if share else [])
        assert found.damage["a.json"].startswith("not JSON from here on")

    def test_a_zip_has_its_directory_at_the_end(self, tmp_path: Path) -> None:
        (tmp_path / "a.zip").write_bytes(zipped({"a.csv": TEXTS["csv"].encode()})[:-30])
        assert "this zip file has no readable directory" in refused(tmp_path / "a.zip")
        found = read_all(folder(tmp_path / "in", a_zip=(tmp_path / "a.zip").read_bytes()))
        assert (ids(found), list(found.damage)) == (["R1"], ["a.zip"])

    def test_a_parquet_file_has_its_footer_at_the_end(self, tmp_path: Path) -> None:
        data = write_parquet(tmp_path / "a.parquet", ROWS).read_bytes()[:-100]
        (tmp_path / "a.parquet").write_bytes(data)
        assert "the parquet file is cut off or damaged" in refused(tmp_path / "a.parquet")
        found = read_all(folder(tmp_path / "in", a_parquet=data))
        assert ids(found) == ["R1"]
        assert "cut off or damaged" in found.damage["a.parquet"]

    @pytest.mark.parametrize("ending", ["csv", "parquet", "json", "jsonl", "csv.gz", "zip"])
    def test_a_file_without_a_byte(self, tmp_path: Path, ending: str) -> None:
        (tmp_path / f"a.{ending}").touch()
        assert refused(tmp_path) == "the file is empty"
        found = read_all(folder(tmp_path / "in", **{f"a_{ending}": b""}))
        assert (ids(found), found.damage) == (["R1"], {f"a.{ending}": "the file is empty"})

    @pytest.mark.parametrize("ending", ["csv", "jsonl"])
    def test_a_packed_file_of_nothing(self, tmp_path: Path, ending: str) -> None:
        (tmp_path / f"a.{ending}.gz").write_bytes(gzip.compress(b""))
        assert refused(tmp_path) == "the file unpacks to nothing"


class TestParquet:
    @pytest.mark.parametrize("compression", ["snappy", "zstd", "gzip", "none"])
    def test_bytes_changed_in_data_pages_cost_row_groups_at_most(self, tmp_path: Path, compression: str) -> None:
        path = write_parquet(tmp_path / "a.parquet", ROWS, row_group_size=50, compression=compression)
        whole, footer = path.read_bytes(), pq.read_metadata(path).serialized_size
        told_of = 0
        rng = random.Random(3)
        for _ in range(40):
            data = bytearray(whole)
            for _ in range(3):
                data[rng.randrange(4, len(data) - footer - 8)] ^= rng.randrange(1, 256)
            path.write_bytes(data)
            found = read_all(tmp_path)
            # What no checksum covers can change unseen: a letter within a text. Rows cannot go unseen.
            lost = len(ROWS) - len(found.kept) - len(found.rejected)
            assert (lost > 0) == bool(found.damage)
            if lost:
                told_of += 1
                assert f"damaged data: {lost:,} rows of row group" in found.damage["a.parquet"]
                assert lost % 50 == 0
        assert told_of

    def test_a_column_twice_is_refused(self, tmp_path: Path) -> None:
        table = pa.Table.from_pylist([BASE])
        pq.write_table(table.append_column("review_body", table["review_headline"]), tmp_path / "a.parquet")
        assert refused(tmp_path) == "several columns have the name 'review_body'"

    @pytest.mark.parametrize("pair", [3, 2.5, {"a": 1, "b": 2}, [2.5], True])
    def test_votes_that_are_no_pair_of_whole_numbers_are_refused(self, tmp_path: Path, pair: object) -> None:
        row = {"reviewerID": "u", "asin": "B", "overall": 5, "unixReviewTime": 1_400_000_000, "helpful": pair}
        write_parquet(tmp_path / "a.parquet", [row])
        with pytest.raises(InputError, match=r"column 'helpful' has type .*, not a list of two whole numbers"):
            read_all(tmp_path, "amazon-2014")


class TestBombs:
    @pytest.fixture(autouse=True)
    def _small_files_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(streams, "RATIO_COUNTS_FROM", 1 << 20)

    @pytest.mark.parametrize("packing", [".gz", ".bz2", ".zip"])
    def test_a_file_that_grows_too_much_is_read_up_to_there(self, tmp_path: Path, packing: str) -> None:
        line = (json.dumps(BASE) + "\n").encode()
        lines = line * 20_000
        packed = zipped({"a.jsonl": lines}) if packing == ".zip" else PACK[packing](lines)
        path = tmp_path / f"a{packing}"
        path.write_bytes(packed)
        found = read_all(path, "amazon-us", "ingest.max_unpacked_ratio=20")
        assert list(found.damage.values()) == ["grows more than 20-fold when unpacked (limit max_unpacked_ratio)"]
        assert 1 << 20 <= len(found.kept) * len(line) < 2 << 20
        assert found.reasons in ([(len(found.kept), CUT)], [])
        assert len(read_all(path, "amazon-us", "ingest.max_unpacked_ratio=100000").kept) == 20_000

    def test_or_that_is_too_large_unpacked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        line = (json.dumps(BASE) + "\n").encode()
        (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(line * 2_000))
        # The setting counts in gigabytes.
        monkeypatch.setattr(
            "tasks.sources.readers.limits", lambda config: streams.Limits(config.max_unpacked_gb * 100_000, 10**9)
        )
        found = read_all(tmp_path, "amazon-us", "ingest.max_unpacked_gb=2")
        assert len(found.kept) == 200_000 // len(line)
        assert list(found.damage.values()) == ["unpacks to more than 200,000 bytes (limit max_unpacked_gb)"]


class TestNoReviews:
    def test_a_file_of_other_columns_stands_aside_and_the_folder_is_read(self, tmp_path: Path) -> None:
        products = b'{"asin": "B1", "title": "Lamp", "price": 3}\n'
        found = read_all(folder(tmp_path / "in", b_csv=b"name,size\nx,3\n", c_jsonl=products, d_parquet=b"PAR1"))
        assert ids(found) == ["R1"]
        assert "is not the header that the profile expects" in found.damage["b.csv"]
        assert found.damage["c.jsonl"].startswith("mandatory column(s) missing: customer_id")
        assert found.damage["d.parquet"].startswith("the parquet file is cut off or damaged")

    def test_files_with_different_columns_and_types_are_each_read_by_their_own(self, tmp_path: Path) -> None:
        path = folder(tmp_path / "in", b_jsonl=TEXTS["jsonl"].encode())
        (path / "c.csv").write_text(
            "review_date,extra,review_body,star_rating,product_id,customer_id\n2015-01-01,?,Hi,3,P,9\n"
        )
        write_parquet(path / "d.parquet", [review(star_rating=2, customer_id=77, verified_purchase=True)])
        found = read_all(path)
        assert (len(found.kept), found.rejected, found.damage) == (203, [], {})
        assert [row["user_id"] for row in found.kept[-3:]] == ["9", "77", "12"]

    def test_more_columns_than_the_limit_are_refused_by_name(self, tmp_path: Path) -> None:
        many = {**BASE, **{f"c{i}": "" for i in range(100_000)}}
        (tmp_path / "a.csv").write_text(",".join(many) + "\n" + ",".join(many.values()) + "\n")
        assert refused(tmp_path) == "100,015 columns; the limit is 2,000"
        pq.write_table(pa.table({name: [value] for name, value in [*many.items()][:3000]}), tmp_path / "a.parquet")
        assert refused(tmp_path / "a.parquet") == "3,000 columns; the limit is 2,000"
        allowed = read_all(tmp_path / "a.parquet", "amazon-us", "ingest.max_columns=3000")
        (tmp_path / "b.jsonl").write_text(json.dumps(many) + "\n")  # only what the profile names is looked at
        assert read_all(tmp_path / "b.jsonl").kept == allowed.kept != []

    def test_a_link_out_of_the_folder_is_listed_and_not_read(self, tmp_path: Path) -> None:
        (tmp_path / "secret.csv").write_text(delimited([review(review_id="secret")]))
        path = folder(tmp_path / "in")
        os.symlink(tmp_path / "secret.csv", path / "a.csv")
        found = read_all(path)
        assert (ids(found), found.damage) == (["R1"], {"a.csv": "a symbolic link out of the folder; not followed"})

    def test_zips_cannot_reach_out_of_themselves(self, tmp_path: Path) -> None:
        link = zipfile.ZipInfo("link.csv")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        (tmp_path / "a.zip").write_bytes(zipped({"../up.csv": TEXTS["csv"].encode(), "a.csv": TEXTS["csv"].encode()}))
        with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
            archive.writestr(link, "/etc/passwd")
        found = read_all(tmp_path)
        assert len(found.kept) == 200
        assert found.damage == {
            "a.zip/../up.csv": "its name leads out of the archive",
            "a.zip/link.csv": "it is a symbolic link",
        }
        (tmp_path / "a.zip").write_bytes(zipped({"../up.csv": TEXTS["csv"].encode()}))
        assert refused(tmp_path) == "its name leads out of the archive"

    def test_several_inputs_with_one_name_stay_apart(self, tmp_path: Path) -> None:
        for name in ("x", "y"):
            (tmp_path / name / "in").mkdir(parents=True)
            (tmp_path / name / "in" / "a.csv").write_text(delimited([BASE, review(star_rating=name)]))
        found = read_all([str(tmp_path / "x" / "in"), str(tmp_path / "y" / "in")])
        assert [(source, row) for source, row, _ in found.rejected] == [("000/in/a.csv", 1), ("001/in/a.csv", 1)]


@pytest.mark.parametrize("bad", [b"", b"name,size\n1,2\n"])
def test_a_folder_with_a_bad_file_is_refused_if_so_set(tmp_path: Path, bad: bytes) -> None:
    path = folder(tmp_path / "in", b_csv=bad)
    assert len(read_all(path).kept) == 1
    assert refused(path, "ingest.damaged_files=refuse")
