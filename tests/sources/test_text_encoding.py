"""Files in other encodings than UTF-8: read by their mark, guessed by inspect, never taken for another in silence."""

from __future__ import annotations

import codecs
import io
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.cli.inspect import _in_other_encodings
from tasks.core.errors import InputError
from tasks.sources import partitions
from tasks.sources.discovery import SourceFile
from tasks.sources.inspection import inspect
from tasks.sources.text_encoding import Utf8, encoding_of, guess, keeps_ascii
from tests.support.accounts import read_all
from tests.support.inspected_files import as_csv, proposed, use
from tests.support.raw_files import delimited, review

SAID = {
    "gb18030": ["包装破损了，很差", "质量一般，物流快", "很好，推荐购买", "编号不对，太差了"],
    "big5": ["包裝破損了，很差", "質量一般，物流快", "很好，推薦購買"],
    "cp932": ["とても良い商品でした", "梱包が壊れていました", "また買います。配送が早い"],
    "cp949": ["배송이 빠르고 좋아요", "품질이 별로예요", "다시 구매할게요"],
    "windows-1251": ["быстро и хорошо", "сломалось, дорого", "не работает, очень плохо"],
    "koi8-r": ["быстро и хорошо", "сломалось, дорого", "не работает, очень плохо"],
    "windows-1250": ["świetna jakość", "polecam każdemu, żółty kolor", "Zepsuło się po dwóch tygodniach"],
    "windows-1252": ["größer als erwartet", "schön für die Küche", "leider nach “zwei” Monaten kaputt"],
    "windows-1254": ["Çok güzel bir ürün, hızlı kargo", "çocuklar çok sevdi", "iki haftada bozuldu"],
    "windows-1253": ["Πολύ καλό προϊόν", "γρήγορη αποστολή", "ευχαριστώ"],
}
WIDE = ["utf-16", "utf-16-be with mark", "utf-32"]


def rows(encoding: str, n: int = 60) -> list[list[object]]:
    pick = random.Random(3)
    words = SAID.get(encoding, SAID["windows-1252"])
    return [
        [f"u{i % 9}", f"p{i % 4}", i % 5 + 1, f"{pick.choice(words)} {pick.choice(words)} {i}", "2018-01-05"]
        for i in range(n)
    ]


def table(encoding: str) -> str:
    return as_csv([["user", "product", "stars", "text", "date"], *rows(encoding)])


def encoded(text: str, encoding: str) -> bytes:
    return codecs.BOM_UTF16_BE + text.encode("utf-16-be") if "mark" in encoding else text.encode(encoding)


@pytest.mark.parametrize("encoding", [*SAID, *WIDE])
def test_texts_come_back_as_they_were_written(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.csv").write_bytes(encoded(table(encoding), encoding))
    found = proposed(tmp_path / "a.csv")
    kept, rejected = use(found, tmp_path / "a.csv", tmp_path)
    assert rejected == []
    assert [row["text"] for row in kept] == [row[3] for row in rows(encoding)]
    assert ("guessed from the bytes" in (found.yaml or "")) == (encoding in SAID)


@pytest.mark.parametrize("encoding", ["windows-1251", "gb18030", "utf-16", "utf-16-be with mark"])
@pytest.mark.parametrize("form", ["lines", "array", "csv"])
def test_what_is_not_in_the_profiles_encoding_is_read_by_its_mark_or_named(
    tmp_path: Path, encoding: str, form: str
) -> None:
    records = [review(review_id=f"R{i}", review_body=row[3]) for i, row in enumerate(rows(encoding))]
    lines = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    text = {"lines": lines, "array": json.dumps(records, ensure_ascii=False), "csv": delimited(records)}[form]
    path = tmp_path / ("a.csv" if form == "csv" else "a.json")
    path.write_bytes(encoded(text, encoding))
    if encoding in SAID:
        with pytest.raises(InputError, match=f"this text is not in UTF-8; it seems to be in {encoding}") as error:
            read_all(tmp_path)
        assert f"`encoding: {encoding}`" in str(error.value.fix)
        profile = Path("conf/datasets/amazon-us.yaml").read_text() + f"encoding: {encoding}\n"
        (tmp_path / "mine.yaml").write_text(profile)
    found = read_all(path, str(tmp_path / "mine.yaml") if encoding in SAID else "amazon-us")
    assert [row["text"] for row in found.kept] == [row[3] for row in rows(encoding)]
    assert (found.rejected, found.damage) == ([], {})


def test_utf8_files_stay_utf8_under_a_profile_of_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(Path("conf/datasets/amazon-us.yaml").read_text() + "encoding: windows-1251\n")
    raw = tmp_path / "raw"
    raw.mkdir()
    texts = [row[3] for row in rows("windows-1251")]
    data = delimited([review(review_body=text) for text in texts])
    for name, encoding in (("a", "windows-1251"), ("b", "utf-8"), ("c", "utf-8-sig"), ("d", "utf-16")):
        (raw / f"{name}.csv").write_bytes(data.encode(encoding))
    assert [row["text"] for row in read_all(raw, str(tmp_path / "mine.yaml")).kept] == texts * 4


def test_files_in_two_encodings_are_told(tmp_path: Path) -> None:
    for encoding in ("windows-1251", "gb18030"):
        (tmp_path / f"{encoding}.csv").write_bytes(table(encoding).encode(encoding))
    found = inspect([str(tmp_path)])
    assert found.chosen is not None
    assert len(_in_other_encodings(found, found.chosen)) == 1


def test_a_few_stray_bytes_are_replaced_and_the_rows_kept(tmp_path: Path) -> None:
    data = delimited([review(review_body="caf@")] * 5 + [review()] * 50).encode().replace(b"@", b"\xe9")
    (tmp_path / "a.csv").write_bytes(data)
    found = read_all(tmp_path)
    assert [row["text"] for row in found.kept[:5]] == ["caf\ufffd"] * 5
    assert found.damage == {}


def test_utf16_without_a_mark_is_named_and_read_with_the_profiles_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(delimited([review()] * 20).encode("utf-16-le"))
    with pytest.raises(InputError, match="it seems to be in utf-16-le"):
        read_all(tmp_path / "a.csv")
    (tmp_path / "mine.yaml").write_text(Path("conf/datasets/amazon-us.yaml").read_text() + "encoding: utf-16-le\n")
    assert len(read_all(tmp_path / "a.csv", str(tmp_path / "mine.yaml")).kept) == 20


@given(st.text(), st.sampled_from(["utf-16", "gb18030", "shift_jis", "utf-8"]), st.integers(1, 50))
def test_any_read_size_gives_the_same_text(text: str, encoding: str, size: int) -> None:
    data = text.encode(encoding, "replace")
    stream = Utf8(io.BytesIO(data), encoding)
    pieces = []
    while piece := stream.read(size):
        pieces.append(piece)
    assert b"".join(pieces).decode() == data.decode(encoding)


@given(st.binary(max_size=300))
def test_no_bytes_raise(data: bytes) -> None:
    guess(data)
    assert encoding_of(data, "utf-8") is not None


def test_only_files_whose_line_breaks_are_single_bytes_are_cut() -> None:
    assert [e for e in (*SAID, "utf-8", "latin-1", "utf-16") if keeps_ascii(e)] == [
        *(e for e in SAID if e.startswith(("windows", "koi8"))), "utf-8", "latin-1"
    ]  # fmt: skip
    big = SourceFile("/none", "a.jsonl", 10**9, "00", "json-lines", encoding="utf-16")
    assert [unit.end for unit, _ in partitions._units(big)] == [None]
