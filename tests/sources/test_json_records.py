"""Every record of a JSON source is a row or a bad record with its reason; how it is read in blocks changes nothing."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.sources.json_records import BadRecord, blocks
from tasks.sources.json_values import parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(), inside, max_size=4),
    max_leaves=8,
)
RECORDS = st.lists(st.dictionaries(st.text(), VALUES, max_size=5), max_size=8)
SIZES = st.integers(1, 200)


def read(
    data: bytes, *, array: bool = False, block_bytes: int = 1 << 20, limit: int = 1 << 20, **more: Any
) -> tuple[list[tuple[int, Any]], list[BadRecord], str | None]:
    """(number, row) of each row, the bad records, and what broke the stream."""
    found = list(blocks(io.BytesIO(data), array=array, block_bytes=block_bytes, max_record_bytes=limit, **more))
    assert all(b.broken is None for b in found[:-1])
    rows = [pair for b in found for pair in zip(b.numbers, b.rows, strict=True)]
    return rows, [bad for b in found for bad in b.bad], found[-1].broken if found else None


def rows(data: bytes, **more: Any) -> list[Any]:
    found, bad, broken = read(data, **more)
    assert (bad, broken) == ([], None)
    assert [n for n, _ in found] == list(range(len(found)))
    return [row for _, row in found]


def reasons(data: bytes, **more: Any) -> list[tuple[int, str]]:
    return [(b.number, b.reason) for b in read(data, **more)[1]]


@given(records=RECORDS, size=SIZES, ascii_only=st.booleans(), newline=st.sampled_from(["\n", "\r\n", "\n\n \r\n"]))
def test_lines_come_back_as_they_were_written(
    records: list[dict[str, Any]], size: int, ascii_only: bool, newline: str
) -> None:
    text = newline.join(json.dumps(r, ensure_ascii=ascii_only) for r in records)
    for end in ("", newline):
        assert repr(rows((text + end).encode(), block_bytes=size)) == repr(records)  # repr tells 1 from 1.0 from True


@given(records=RECORDS, size=SIZES, ascii_only=st.booleans(), indent=st.sampled_from([None, 0, 2]))
def test_an_array_gives_the_same_rows_as_lines(
    records: list[dict[str, Any]], size: int, ascii_only: bool, indent: int | None
) -> None:
    data = json.dumps(records, ensure_ascii=ascii_only, indent=indent).encode()
    assert repr(rows(data, array=True, block_bytes=size)) == repr(records)


MIXED = [b'{"a": 1}', b"[1]", b"{", b"", b'"\xff"', b'{"b": "\xc3\xa9\xe2\x98\x85"}', b"x" * 70, b'{"c": NaN}', b"12"]


@given(
    lines=st.lists(st.sampled_from(MIXED) | st.binary(max_size=20), max_size=12), size=SIZES, limit=st.integers(1, 80)
)
def test_block_sizes_never_change_lines_good_or_bad(lines: list[bytes], size: int, limit: int) -> None:
    data = b"\n".join(lines)
    assert repr(read(data, block_bytes=size, limit=limit)) == repr(read(data, limit=limit))


ELEMENTS = [
    '{"a": "é★"}',
    "[1, [2]]",
    '"]"',
    '{"b": "\\"}{"}',
    '{"c": "' + "x" * 70 + '"}',
    "-12.5e3",
    "NaN",
    "12",
    "{]",
]


@given(
    elements=st.lists(st.sampled_from(ELEMENTS), max_size=12),
    glue=st.sampled_from([",", " , ", ",\n", "\n"]),
    end=st.sampled_from(["]", "", ",]", "] x"]),
    size=SIZES,
    limit=st.integers(1, 80),
)
def test_block_sizes_never_change_arrays_good_or_bad(
    elements: list[str], glue: str, end: str, size: int, limit: int
) -> None:
    data = ("[" + glue.join(elements) + end).encode()
    assert repr(read(data, array=True, block_bytes=size, limit=limit)) == repr(read(data, array=True, limit=limit))


@given(data=st.binary(max_size=200), array=st.booleans(), size=SIZES)
def test_no_bytes_raise(data: bytes, array: bool, size: int) -> None:
    read(data, array=array, block_bytes=size, limit=50)


@given(records=RECORDS, cut=st.floats(0, 1))
def test_a_cut_array_gives_the_records_before_the_cut(records: list[dict[str, Any]], cut: float) -> None:
    data = json.dumps(records).encode()
    data = data[: int(cut * (len(data) - 1))]
    found, bad, broken = read(data, array=True)
    assert repr([row for _, row in found]) == repr(records[: len(found)])
    assert broken is not None
    assert broken.startswith("not JSON from here on: ")
    assert len(bad) <= 1


def test_a_byte_order_mark_is_dropped() -> None:
    assert rows(b'\xef\xbb\xbf{"a":1}\n\xef\xbb\xbf{"a":2}') == [{"a": 1}, {"a": 2}]  # and between joined files
    assert rows(b'\xef\xbb\xbf[{"a":1}]', array=True) == [{"a": 1}]


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (rb'{"a": "\ud800x", "\udfff": ["\udc00", {"\ud83d\ude00": "\ud83d"}]}',
         '{"a": "�x", "�": ["�", {"😀": "�"}]}'),
        (b'{"a": "caf\xe9", "b": "\xed\xa0\x80"}', '{"a": "caf�", "b": "���"}'),
        (rb'{"a": "nul \u0000 stays"}', '{"a": "nul \\u0000 stays"}'),
        (b'{"a": "so does \x00 and \t"}', '{"a": "so does \\u0000 and \\t"}'),
        (b'{"a": 1, "a": 2}', '{"a": 2}'),
        (b'{"a": 123456789012345678901234567890, "b": -9223372036854775809}', None),
        (b'{"a": 18446744073709551615, "b": 0.30000000000000004}', None),
        (b'{"a": 1e400}', '{"a": Infinity}'),
        (b'{"a": Infinity, "b": -Infinity}', None),
        (b' \t{"a": 1} \r', '{"a": 1}'),
    ],
)  # fmt: skip
def test_what_strict_parsers_refuse_is_kept(line: bytes, row: str | None) -> None:
    expected = repr([json.loads(row or line)])
    assert repr(rows(line)) == expected
    assert repr(rows(b"[" + line + b"]", array=True)) == expected


def test_nan_is_null_as_data_frames_mean_it() -> None:
    for data, array in (
        (b'{"a": NaN, "b": [NaN, {"c": NaN}]}', False),
        (b'[{"a": NaN, "b": [NaN, {"c": NaN}]}]', True),
    ):
        assert rows(data, array=array) == [{"a": None, "b": [None, {"c": None}]}]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1, 2]", "a JSON array, not an object"),
        ("7", "a JSON number, not an object"),
        ("-0.5", "a JSON number, not an object"),
        ('"x"', "a JSON string, not an object"),
        ("true", "a JSON boolean, not an object"),
        ("null", "JSON null, not an object"),
        ('{"a":' + "[" * 100 + "]" * 100 + "}", "nested more than 100 levels deep"),
        ('{"a":' + "[" * 99_999 + "]" * 99_999 + "}", "nested more than 100 levels deep"),
    ],
)
def test_what_is_no_record_is_bad_and_the_others_are_kept(text: str, reason: str) -> None:
    good = [(0, {"a": 1}), (2, {"b": 2})]
    for data, array in ((f'{{"a":1}}\n{text}\n{{"b":2}}', False), (f'[{{"a":1}}, {text} , {{"b":2}}]', True)):
        assert read(data.encode(), array=array) == (good, [BadRecord(1, reason, text[:2000])], None)


def test_records_may_be_nested_and_full_of_brackets() -> None:
    record = {"a": "[" * 5000, "b": [[]] * 500}
    assert rows(json.dumps(record).encode()) == [record]
    assert rows(json.dumps([record]).encode(), array=True) == [record]


def test_a_number_of_thousands_of_digits_is_bad() -> None:
    number = '{"a": ' + "1" * 5000 + "}"
    for data, array in ((number, False), (f"[{number}]", True)):
        ((number_of, reason),) = reasons(data.encode(), array=array)
        assert number_of == 0
        assert "4300 digits" in reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1', "not JSON: Expecting ',' delimiter (character 8)"),
        (b'{"a": "x', "not JSON: Unterminated string starting at (character 7)"),
        (b"hello", "not JSON: Expecting value (character 1)"),
        (b"{'a': 1}", "not JSON: Expecting property name enclosed in double quotes (character 2)"),
        (b'{"a": 1} 2', "not JSON: Extra data (character 10)"),
    ],
)
def test_malformed_lines_are_bad_and_cost_no_other(line: bytes, reason: str) -> None:
    found, bad, _ = read(b'\n{"a":0}\r\n' + line + b"\r\n\r\n" + b'{"a":2}\n')
    assert found == [(0, {"a": 0}), (2, {"a": 2})]
    assert bad == [BadRecord(1, reason, line.decode())]


def test_a_long_text_is_kept_in_part() -> None:
    (bad,) = read("★".encode() * 9000)[1]
    assert bad.text == "★" * 2000


@pytest.mark.parametrize("array", [False, True])
def test_a_record_over_the_limit_is_bad_and_never_held(array: bool) -> None:
    class Long(io.RawIOBase):
        """Records of 40 MB, 1 MB and a few bytes."""

        def __init__(self) -> None:
            super().__init__()
            self._pieces = self._make()

        def _make(self) -> Iterator[bytes]:
            yield b'[{"a":"' if array else b'{"a":"'
            for _ in range(40):
                yield b"x\\\\" + b"x" * ((1 << 20) - 3)
            yield b'"},{"a":"' if array else b'"}\n{"a":"'
            yield b"y" * (1 << 20) + b'"}'
            yield b',{"b":1}]' if array else b'\n{"b":1}'

        def read(self, size: int = -1) -> bytes:
            return next(self._pieces, b"")

    tracemalloc.start()
    try:
        found = list(blocks(Long(), array=array, block_bytes=1 << 20, max_record_bytes=2 << 20))  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [b for block in found for b in block.bad] == [
        BadRecord(0, "record of 40 MB; the limit is 2 MB", '{"a":"x\\\\' + "x" * (2000 - 9))
    ]
    assert [n for block in found for n in block.numbers] == [1, 2]
    assert peak < 16 << 20


@pytest.mark.parametrize(
    ("data", "reason", "rest"),
    [
        (b'{"a":1}', "no array begins here", '{"a":1}'),
        (b"", "no array begins here", None),
        (b'[{"a":0} {"a":1}]', "no comma after an element", '{"a":1}]'),
        (b'[{"a":0}, {"a" 1}, {"a":2}]', "Expecting ':' delimiter", '{"a" 1}, {"a":2}]'),
        (b'[{"a":0}, {"a": "x', "Unterminated string starting at", '{"a": "x'),
        (b'[{"a":0}', "the array is not closed", None),
        (b'[{"a":0}] and more', "more text after the end of the array", "and more"),
        (b'[{"a":0}][{"a":1}]', "more text after the end of the array", '[{"a":1}]'),
    ],
)
def test_an_array_with_a_syntax_error_is_read_up_to_it(data: bytes, reason: str, rest: str | None) -> None:
    found, bad, broken = read(data, array=True)
    said = f"not JSON from here on: {reason}"
    good = data.startswith(b'[{"a":0}')
    assert broken == said
    assert found == ([(0, {"a": 0})] if good else [])
    assert bad == ([BadRecord(int(good), said, rest)] if rest else [])


@pytest.mark.parametrize("data", [b"[]", b" [ ] \n", b'[{"a":1},]'])
def test_arrays_that_are_empty_or_end_in_a_comma_are_whole(data: bytes) -> None:
    assert rows(data, array=True) == ([{"a": 1}] if b"a" in data else [])


def test_an_empty_stream_has_no_lines() -> None:
    assert rows(b"") == []


def test_lines_of_another_kind_are_parsed_by_their_own_parser() -> None:
    def parse(line: bytes) -> Any:
        key, equals, value = line.decode().partition("=")
        if not equals:
            raise ValueError("no equals sign")
        return {key: value}

    found, bad, _ = read(b"a=1\n\nb\nc=2", parse_line=parse)
    assert found == [(0, {"a": "1"}), (2, {"c": "2"})]
    assert bad == [BadRecord(1, "no equals sign", "b")]


def test_parse_json_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="not JSON: Expecting value"):
        parse_json(b"nope")
