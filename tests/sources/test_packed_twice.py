"""xz, and files that were packed twice: unpacked within the limits, up to the first damaged byte."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest

from tasks.core.errors import InputError
from tasks.sources import streams
from tasks.sources.inspection import inspect
from tests.support.accounts import PACK, read_all, zipped
from tests.support.raw_files import delimited, review

ROWS = [review(review_id=f"R{i:03}") for i in range(200)]
CSV = delimited(ROWS).encode()
NOISY = [review(review_id=f"R{i}", review_body=f"{i * 7919 % 104729:x}" * 20) for i in range(4000)]
ALL = {**PACK, ".xz": lzma.compress}
CUT = "cut off: the file ends within this record"


@pytest.mark.parametrize("outer", [".gz", ".bz2", ".zst", ".xz", ".zip"])
@pytest.mark.parametrize("inner", [".gz", ".bz2", ".zst", ".xz"])
def test_two_packings_are_undone(tmp_path: Path, outer: str, inner: str) -> None:
    once = ALL[inner](CSV)
    name = "a.csv.zip" if outer == ".zip" else f"a.csv{inner}{outer}"
    data = zipped({f"archive/a.csv{inner}": once, "__MACOSX/._a.csv.gz": b"x"}) if outer == ".zip" else ALL[outer](once)
    (tmp_path / name).write_bytes(data)
    found = read_all(tmp_path)
    assert (len(found.kept), found.rejected, found.damage) == (200, [], {})
    judged = inspect([str(tmp_path)]).chosen
    assert judged is not None
    assert (judged.name, judged.usable) == ("amazon-us", 200)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (gzip.compress(gzip.compress(gzip.compress(CSV))), "packed three times or more, the last time with gzip"),
        (gzip.compress(zipped({"a.csv": CSV})), "packed twice, a zip file inside gzip"),
        (zipped({"a.zip": zipped({"a.csv": CSV})}), "packed twice, a zip file inside zip"),
    ],
)
def test_more_than_two_or_a_zip_within_are_refused(tmp_path: Path, data: bytes, what: str) -> None:
    (tmp_path / "a.csv.gz").write_bytes(data)
    with pytest.raises(InputError, match=what):
        read_all(tmp_path)


@pytest.mark.parametrize("damaged", ["outer", "inner"])
def test_either_packing_may_be_cut_off(tmp_path: Path, damaged: str) -> None:
    once = gzip.compress(delimited(NOISY).encode())
    data = gzip.compress(once, compresslevel=0)[:-500] if damaged == "outer" else gzip.compress(once[:-500])
    (tmp_path / "a.csv.gz").write_bytes(data)
    found = read_all(tmp_path)
    n = len(found.kept)
    assert 0 < n < 4000
    assert found.reasons in ([(n, CUT)], [])
    assert "gzip data cut off after" in found.damage["a.csv.gz"]


def test_the_limit_on_growth_holds_for_both_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "RATIO_COUNTS_FROM", 1 << 20)
    bomb = gzip.compress(gzip.compress(delimited(ROWS).encode() + b" " * (8 << 20)))
    (tmp_path / "a.csv.gz").write_bytes(bomb)
    found = read_all(tmp_path, "amazon-us", "ingest.max_unpacked_ratio=200")
    assert "grows more than 200-fold" in found.damage["a.csv.gz"]


class TestXz:
    @pytest.mark.parametrize("share", [0.4, 0.99])
    def test_a_file_that_is_cut_gives_its_whole_records(self, tmp_path: Path, share: float) -> None:
        packed = lzma.compress(delimited(NOISY).encode())
        (tmp_path / "a.csv.xz").write_bytes(packed[: int(share * len(packed))])
        found = read_all(tmp_path)
        n = len(found.kept)
        assert [row["review_id"] for row in found.kept] == [row["review_id"] for row in NOISY[:n]]
        assert "xz data cut off after" in found.damage["a.csv.xz"]

    def test_changed_bytes_are_told(self, tmp_path: Path) -> None:
        packed = bytearray(lzma.compress(delimited(NOISY).encode()))
        packed[-len(packed) // 4] ^= 255
        (tmp_path / "a.csv.xz").write_bytes(packed)
        found = read_all(tmp_path)
        assert len(found.kept) > 1000
        assert "xz data damaged or with a bad checksum" in found.damage["a.csv.xz"]

    def test_several_streams_and_their_padding_are_one_file(self, tmp_path: Path) -> None:
        half = CSV.index(b"\n", len(CSV) // 2) + 1
        (tmp_path / "a.csv.xz").write_bytes(lzma.compress(CSV[:half]) + b"\0" * 8 + lzma.compress(CSV[half:]))
        found = read_all(tmp_path)
        assert (len(found.kept), found.damage) == (200, {})

    def test_a_dictionary_beyond_the_memory_limit_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tasks.sources.decompress.XZ_MEMORY", 1 << 16)
        (tmp_path / "a.csv.xz").write_bytes(lzma.compress(CSV))
        with pytest.raises(InputError, match="xz data needs too much memory"):
            read_all(tmp_path)
