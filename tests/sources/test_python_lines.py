"""Reviews written as Python literals, one a line: parsed, never evaluated, to the values that JSON would have."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.sources.inspection import inspect
from tasks.sources.python_lines import parse_record
from tests.support.accounts import read_all

PLAIN = {"reviewerID": "u", "asin": "B1", "overall": 4.0, "reviewText": 'It\'s "fine"', "unixReviewTime": 1_400_000_000}


def test_they_are_read_as_reviews_and_what_is_no_literal_is_rejected(tmp_path: Path) -> None:
    rows = [PLAIN | {"summary": f"Title {i}", "helpful": (i, 99)} for i in range(60)]
    lines = [*map(repr, rows), "{'asin': open('/etc/passwd')}", repr(PLAIN | {"overall": {1, 2}})]
    (tmp_path / "a.json").write_text("\n".join(lines) + "\n")
    found = read_all(tmp_path, "amazon-2014")
    assert [(row["title"], row["helpful_votes"], row["text"]) for row in found.kept] == [
        (f"Title {i}", i, 'It\'s "fine"') for i in range(60)
    ]
    assert found.reasons == [(60, "neither JSON nor a Python literal"), (61, "rating is not a number")]
    judged = inspect([str(tmp_path)]).chosen
    assert judged is not None
    assert (judged.name, judged.usable) == ("amazon-2014", 60)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"{'a': (1, (2,)), 3: {4}, None: 'x'}", {"a": [1, [2]], "3": [4], "None": "x"}),
        (b"{'a': 123456789012345678901234567890}", {"a": 123456789012345678901234567890}),
        (b"{'a': nan, 'b': '\\ud800'}", {"a": None, "b": "\ufffd"}),
        (b"{'a': 'caf\xe9'}", {"a": "caf\ufffd"}),
        (b'{"a": "json, too", "b": null}', {"a": "json, too", "b": None}),
    ],
)
def test_values_are_those_of_json(line: bytes, value: object) -> None:
    assert parse_record(line) == value


@given(st.binary(max_size=60) | st.text(alphabet="{}[]()'\",:u1. nainf", max_size=40).map(str.encode))
def test_anything_else_is_a_value_error(line: bytes) -> None:
    with suppress(ValueError):
        parse_record(line)
