"""Packed files give all their bytes; damaged ones give what is left and say what is wrong; bombs are stopped."""

from __future__ import annotations

import bz2
import gzip
import io
import random
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.sources import streams

NOISE = random.Random(0).randbytes(400_000)
ROOMY = streams.Limits(max_bytes=1 << 40, max_ratio=1 << 20)
TEXT = "".join(f"{n} ★ a review in “words” {n * n % 977}\n" for n in range(6_000)).encode()


def zstd(data: bytes) -> bytes:
    """One frame, without the checksum that the zstd command adds."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(data)
    return sink.getvalue().to_pybytes()


def zipped(method: int = zipfile.ZIP_DEFLATED, **files: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return sink.getvalue()


PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "bzip2": bz2.compress, "zstd": zstd}
SIMPLE = sorted(PACK)
ZIP_METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]


def unpack(packed: bytes, packing: str | None, limits: streams.Limits = ROOMY, **more: Any) -> tuple[bytes, str | None]:
    stream = streams.Unpacked(io.BytesIO(packed), packing, limits, **more)
    pieces = iter(lambda: stream.read(100_003), b"")
    return b"".join(pieces), stream.damage


class Dribble(io.RawIOBase):
    """A file that gives less than it was asked for, as sockets do."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._file = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(len(buffer), 1000))
        buffer[: len(data)] = data
        return len(data)


@pytest.mark.parametrize("packing", SIMPLE)
@given(data=st.binary(max_size=3000), times=st.integers(1, 200))
def test_any_bytes_come_back_whole(packing: str, data: bytes, times: int) -> None:
    packed = PACK[packing](data * times)
    assert streams.packing(packed) == packing
    assert unpack(packed, packing) == (data * times, None)


@pytest.mark.parametrize("method", ZIP_METHODS)
@given(data=st.binary(max_size=3000), times=st.integers(1, 200))
def test_any_member_of_a_zip_comes_back_whole(method: int, data: bytes, times: int) -> None:
    packed = zipped(method, **{"other.csv": b"x", "a/b.csv": data * times})
    assert streams.packing(packed) == "zip"
    assert [(m.name, m.size) for m in streams.members(io.BytesIO(packed))] == [
        ("a/b.csv", len(data) * times),
        ("other.csv", 1),
    ]
    assert unpack(packed, "zip", member="a/b.csv") == (data * times, None)
    assert unpack(packed, "zip", member=streams.members(io.BytesIO(packed))[1]) == (b"x", None)


@pytest.mark.parametrize("packing", SIMPLE)
@given(where=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_gives_its_beginning_and_says_so(packing: str, where: float) -> None:
    packed = PACK[packing](TEXT)
    out, damage = unpack(packed[: int(where * len(packed))], packing)
    assert TEXT.startswith(out)
    assert damage == f"{packing} data cut off after {len(out):,} unpacked bytes"


@pytest.mark.parametrize("packing", SIMPLE)
@given(data=st.data())
def test_a_byte_changed_anywhere_never_raises(packing: str, data: st.DataObject) -> None:
    packed = bytearray(PACK[packing](TEXT[:30_000]))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    out, damage = unpack(bytes(packed), packing)
    if packing != "zstd":  # it has no checksum here
        assert damage or out == TEXT[:30_000]  # a change in the name or time that a header holds does no harm


def test_a_cut_file_loses_no_byte_that_zlib_can_still_read() -> None:
    packed = gzip.compress(TEXT)[:-5_000]
    assert unpack(packed, "gzip")[0] == zlib.decompressobj(wbits=31).decompress(packed)


def test_a_cut_zstd_file_loses_whole_blocks_only() -> None:
    out, damage = unpack(zstd(NOISE)[:-100], "zstd")
    assert len(NOISE) - len(out) <= 128 << 10  # a block's greatest size
    assert damage == f"zstd data cut off after {len(out):,} unpacked bytes"


@pytest.mark.parametrize("packing", SIMPLE)
def test_files_packed_one_after_the_other_are_one(packing: str) -> None:
    pack = PACK[packing]
    assert unpack(pack(TEXT) + pack(b"") + pack(b"more"), packing) == (TEXT + b"more", None)
    out, damage = unpack(pack(TEXT) + pack(b"more")[:-1], packing)
    assert out.startswith(TEXT)
    assert damage == f"{packing} data cut off after {len(out):,} unpacked bytes"


@pytest.mark.parametrize("zeros", [1, 511, 200_000])
def test_zeros_after_gzip_data_are_padding_and_anything_else_is_told(zeros: int) -> None:
    packed = gzip.compress(TEXT)
    assert unpack(packed + bytes(zeros), "gzip") == (TEXT, None)
    assert unpack(packed + bytes(zeros) + packed, "gzip") == (TEXT + TEXT, None)
    out, damage = unpack(packed + bytes(zeros) + b"hello", "gzip")
    assert (out, damage) == (TEXT, f"gzip data followed by something else after {len(TEXT):,} unpacked bytes")


def test_what_is_no_gzip_is_not_called_a_bad_checksum() -> None:
    assert unpack(b"hello, world", "gzip") == (b"", "gzip data damaged after 0 unpacked bytes")


def test_a_bad_checksum_costs_no_byte() -> None:
    packed = bytearray(gzip.compress(TEXT))
    packed[-6] ^= 1
    assert unpack(bytes(packed), "gzip") == (TEXT, f"gzip data has a bad checksum after {len(TEXT):,} unpacked bytes")
    # A zstd frame by hand: its size in one byte and a checksum are announced, one last block of plain bytes.
    frame = b"\x28\xb5\x2f\xfd\x24\x05" + (5 << 3 | 1).to_bytes(3, "little") + b"hello" + b"\1\2\3\4"
    assert unpack(frame, "zstd") == (b"hello", "zstd data has a bad checksum after 5 unpacked bytes")


@pytest.mark.parametrize("method", ZIP_METHODS)
def test_damage_in_a_zip_is_told_and_costs_no_byte(method: int) -> None:
    packed = zipped(method, a=TEXT)
    member = streams.members(io.BytesIO(packed))[0]
    wrong = streams.Member(**{**vars(member), "crc": member.crc ^ 1})
    assert unpack(packed, "zip", member=wrong) == (
        TEXT,
        f"zip data has a bad checksum after {len(TEXT):,} unpacked bytes",
    )
    out, damage = unpack(packed[: member.packed // 2], "zip", member=member)
    assert TEXT.startswith(out)
    assert damage == f"zip data cut off after {len(out):,} unpacked bytes"
    out, damage = unpack(packed, "zip", member="b")
    assert (out, damage) == (b"", "zip data cannot be read (no member 'b') after 0 unpacked bytes")


@pytest.mark.parametrize("packing", SIMPLE)
def test_short_reads_of_the_raw_file_change_nothing(packing: str) -> None:
    stream = streams.Unpacked(io.BufferedReader(Dribble(PACK[packing](TEXT)), 64), packing, ROOMY)
    assert (stream.read(len(TEXT) + 1), stream.damage) == (TEXT, None)


def test_an_error_of_the_raw_file_is_raised_each_time() -> None:
    class Lost(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() >= 64 << 10:
                raise ConnectionResetError("gone")
            return super().read(size)

    for packing in SIMPLE:
        stream = streams.Unpacked(Lost(PACK[packing](NOISE)), packing, ROOMY)
        for _ in range(2):
            with pytest.raises(ConnectionResetError, match="gone"):
                stream.readall()


@pytest.mark.parametrize("packing", SIMPLE)
def test_a_bomb_is_stopped_by_its_ratio_in_little_memory(packing: str) -> None:
    bomb = PACK[packing](bytes(70 << 20)) * 4
    stream = streams.Unpacked(io.BytesIO(bomb), packing, streams.Limits(max_bytes=1 << 40, max_ratio=200))
    tracemalloc.start()
    try:
        total = sum(map(len, iter(lambda: stream.read(1 << 16), b"")))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert stream.damage == "grows more than 200-fold when unpacked (limit max_unpacked_ratio)"
    assert 64 << 20 < total < 65 << 20
    assert peak < 4 << 20


@given(most=st.integers(0, len(TEXT) - 1), step=st.integers(100, 70_000))
def test_the_limit_of_bytes_strikes_at_the_same_byte_however_it_is_read(most: int, step: int) -> None:
    limits = streams.Limits(max_bytes=most, max_ratio=200)
    stream = streams.Unpacked(io.BytesIO(gzip.compress(TEXT)), "gzip", limits)
    assert b"".join(iter(lambda: stream.read(step), b"")) == TEXT[:most]
    assert stream.damage == f"unpacks to more than {streams.in_words(most)} (limit max_unpacked_gb)"


def test_a_small_file_may_repeat_itself() -> None:
    limits = streams.Limits(max_bytes=64 << 30, max_ratio=200)
    assert unpack(gzip.compress(bytes(10 << 20)), "gzip", limits) == (bytes(10 << 20), None)


def test_plain_files_pass_through_without_limits() -> None:
    assert unpack(TEXT, None, streams.Limits(max_bytes=10, max_ratio=1)) == (TEXT, None)


@pytest.mark.parametrize(
    "start", [b"", b"BZ", b"BZh9 is my name", b'{"a":1}', b"PAR1", b"PK is a brand", b"\x28\xb5", b"P*M\x19"]
)
def test_text_is_not_taken_for_packed(start: bytes) -> None:
    assert streams.packing(start) is None


def test_a_zstd_file_may_begin_with_a_skippable_frame() -> None:
    packed = b"\x50\x2a\x4d\x18\x04\0\0\0size" + zstd(TEXT)
    assert streams.packing(packed[:4]) == "zstd"
    assert unpack(packed, "zstd") == (TEXT, None)


def test_what_must_not_be_read_from_a_zip_is_listed_with_the_reason() -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("folder/", b"")
        for name in ("__MACOSX/._a.csv", ".hidden", "x/.DS_Store", "./a.csv", "../b.csv", "/c.csv", "C:\\d.csv"):
            archive.writestr(name, b"1")
        archive.writestr("e.csv", b"1", zipfile.ZIP_LZMA)
        link = zipfile.ZipInfo("f.csv")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, b"/etc/passwd")
    escapes = "its name leads out of the archive"
    assert {m.name: m.problem for m in streams.members(sink)} == {
        "./a.csv": None,
        "../b.csv": escapes,
        "/c.csv": escapes,
        "C:\\d.csv": escapes,
        "e.csv": "it is packed in a way that cannot be read (method 14)",
        "f.csv": "it is a symbolic link",
    }
    locked = bytearray(zipped(a=b"1"))
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    assert [m.problem for m in streams.members(io.BytesIO(locked))] == ["it is encrypted"]
    told = "zip data cannot be read (it is encrypted) after 0 unpacked bytes"
    assert unpack(bytes(locked), "zip", member="a") == (b"", told)


def test_members_that_lie_over_each_other_are_a_bomb() -> None:
    packed = bytearray(zipped(a=TEXT, b=TEXT))
    second = packed.index(b"PK\x01\x02", packed.index(b"PK\x01\x02") + 1)
    packed[second + 42 : second + 46] = (40).to_bytes(4, "little")
    assert [m.problem for m in streams.members(io.BytesIO(packed))] == [None, "it overlaps another member: a zip bomb"]


@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_zip_cut_anywhere_has_no_directory(cut: float) -> None:
    packed = zipped(a=TEXT[:2000], b=TEXT[:3000])
    with pytest.raises(ValueError, match="no readable directory"):
        streams.members(io.BytesIO(packed[: int(cut * len(packed))]))


@given(data=st.binary(max_size=50), start=st.integers(0, 60), length=st.integers(0, 60), step=st.integers(1, 9))
def test_a_slice_is_the_bytes_between(data: bytes, start: int, length: int, step: int) -> None:
    raw = io.BytesIO(data)
    one, other = streams.Slice(raw, start, start + length), streams.Slice(raw, 0, 2)
    pieces = []
    while piece := one.read(step):
        pieces.append(piece)
        other.read(1)
    assert b"".join(pieces) == data[start : start + length]
    assert not raw.closed


def test_closing_leaves_the_raw_file_open() -> None:
    raw = io.BytesIO(gzip.compress(b"x"))
    with streams.Unpacked(raw, "gzip", ROOMY) as stream:
        assert stream.read() == b"x"
    assert not raw.closed
    with pytest.raises(ValueError, match="closed"):
        stream.read(1)


@pytest.mark.parametrize(("packing", "said"), [("rar", "cannot unpack 'rar'"), ("zip", "without a member")])
def test_a_call_that_makes_no_sense_is_refused(packing: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        streams.Unpacked(io.BytesIO(b""), packing, ROOMY)


@pytest.mark.parametrize(
    ("size", "words"), [(900, "900 bytes"), (104 << 20, "104 MB"), (64 << 30, "64 GB"), (3 << 19, "1.5 MB")]
)
def test_sizes_in_words(size: int, words: str) -> None:
    assert streams.in_words(size) == words
